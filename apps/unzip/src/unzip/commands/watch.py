"""`unzip watch`: archives as they come, until SIGTERM."""

from __future__ import annotations

import threading
from functools import partial

import boto3

from unzip.commands.common import bucket_of, configured, guarded
from unzip.metrics import Metrics
from unzip.processing import service
from unzip.processing.stop import Stop
from unzip.s3 import capabilities

# What is not ended when draining is over is given back: that takes requests, too.
_GIVE_BACK_SECONDS = 3


def watch() -> None:
    """Extract archives as notifications come (SQS, NATS, webhook at /events), until SIGTERM."""
    # A CronJob's every run would pay for the web server's import.
    from kit.http import server  # noqa: PLC0415
    from kit.lifecycle.health import Health  # noqa: PLC0415
    from unzip.triggers.sqs import SqsQueue  # noqa: PLC0415
    from unzip.triggers.watcher import Watcher  # noqa: PLC0415
    from unzip.triggers.webhook import create_app  # noqa: PLC0415

    settings = configured()
    stop = Stop()
    metrics = Metrics()
    store = bucket_of(settings, metrics=metrics)

    def work() -> int:
        capabilities.check_conditional_writes(store, settings.state_prefix)
        with service.assembled(settings, store, stop, metrics) as ours:
            watcher = Watcher(ours)
            watcher.start()
            threads = []
            if settings.sqs_queue_url:
                queue = SqsQueue(boto3.Session().client("sqs"), settings.sqs_queue_url, ours)
                threads.append(threading.Thread(target=queue.run, name="sqs", daemon=True))
            if settings.nats_url:
                from unzip.triggers.nats import Subscriber  # noqa: PLC0415

                subscriber = Subscriber(ours, watcher)
                threads.append(threading.Thread(target=subscriber.run, name="nats", daemon=True))
            for thread in threads:
                thread.start()
            health = Health()
            draining = partial(stop.request, settings.drain_seconds)
            application = create_app(ours, watcher, health)
            server.serve(application, settings, health, on_drain=draining)
            draining()  # it may have ended without a signal
            watcher.join()
            for thread in threads:
                thread.join(timeout=settings.drain_seconds + _GIVE_BACK_SECONDS)
        return 0

    guarded(settings, work)
