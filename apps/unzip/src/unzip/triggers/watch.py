"""`unzip watch`: archives as SQS, NATS or a webhook tell of them, and by listing in any case."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kit.http.probes import Probes
from kit.http.problem import MEDIA_TYPE, Problem
from kit.lifecycle.health import Health
from kit.telemetry import logs
from unzip.processing.service import Service
from unzip.triggers.events import UnknownEvent, created_keys

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logs.get("unzip.watch")
_LONGEST_EVENT = 256 << 10
_WAITING = 10_000


class Watcher:
    """Keys from any side, each processed once at a time; a full queue is left to the listing."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys: queue.Queue[str] = queue.Queue(_WAITING)
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def offer(self, key: str) -> bool:
        """Have ``key`` processed. False: no room."""
        try:
            self._keys.put_nowait(key)
        except queue.Full:
            return False
        return True

    def start(self) -> None:
        """Begin working in threads of our own."""
        work = [self._work] * self._service.settings.archives_at_once
        for target in (*work, self._list):
            thread = threading.Thread(target=target, name=f"watch-{target.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        """Wait until what is under way has ended; the service's Stop makes it end."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        stop = self._service.stop.requested
        while not stop.is_set():
            try:
                key = self._keys.get(timeout=0.2)
            except queue.Empty:
                continue
            with self._lock:
                if key in self._under_way:
                    continue  # a second notification of what is being read; the listing is behind
                self._under_way.add(key)
            try:
                self._service.process_key(key)
            except Exception as error:
                log.error("event failed", key=key, error=str(error))
            finally:
                with self._lock:
                    self._under_way.discard(key)

    def _list(self) -> None:
        """Events get lost: the bucket is listed at the start and now and then."""
        stop = self._service.stop.requested
        while not stop.is_set():
            try:
                tally = self._service.sweep()
                log.info("listed", found=tally.found, outcomes=tally.outcomes)
            except Exception as error:
                log.error("listing failed", error=str(error))
            stop.wait(self._service.settings.watch_list_seconds)


def create_app(service: Service, watcher: Watcher, health: Health) -> ASGIApp:
    """``POST /events`` for S3's webhook, and the probes."""

    async def events(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_EVENT:
                raise Problem(413, "event-too-large", f"more than {_LONGEST_EVENT} bytes")
        try:
            keys = created_keys(body, bucket=service.settings.bucket)
        except UnknownEvent as error:
            raise Problem(400, "unknown-event", f"{error}; send S3 event messages") from error
        if service.stop.requested.is_set():
            raise Problem(503, "draining", "another pod takes it", headers={"Retry-After": "10"})
        wanted = [key for key in keys if service.wanted(key)]
        offered = [watcher.offer(key) for key in wanted]
        if not all(offered):
            raise Problem(503, "queue-full", "send it again later", headers={"Retry-After": "10"})
        return JSONResponse({"accepted": len(wanted)}, status_code=202)

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return Response(error.body(), error.status, error.headers, MEDIA_TYPE)

    app = Starlette(
        routes=[Route("/events", events, methods=["POST"])],
        exception_handlers={Problem: problem},
    )
    return Probes(app, health, service.metrics.registry)


class Queue:
    """Reads SQS. A message is deleted when its archives are closed, and kept invisible till then.

    What is not closed (somebody else has it, S3 is down) comes back by itself.
    """

    def __init__(
        self, client: SQSClient, url: str, service: Service, *, visibility_seconds: int = 120
    ) -> None:
        self._client = client
        self._url = url
        self._service = service
        self._visibility = visibility_seconds

    def poll(self, *, wait_seconds: int = 20) -> int:
        """Receive and process one batch; the number of messages received."""
        answer = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=min(10, self._service.settings.archives_at_once),
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self._visibility,
        )
        messages = answer.get("Messages", [])
        if not messages:
            return 0
        with ThreadPoolExecutor(len(messages), "sqs") as pool:
            list(pool.map(self._handle, messages))
        return len(messages)

    def _handle(self, message: Any) -> None:
        receipt = message["ReceiptHandle"]
        try:
            keys = created_keys(message["Body"], bucket=self._service.settings.bucket)
        except UnknownEvent as error:
            # The queue's own redrive policy takes it away after its number of receipts.
            log.error("unknown message", id=message["MessageId"], error=str(error))
            return
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(receipt, ended), daemon=True)
        keeper.start()
        try:
            closed = self._service.close_keys(keys)
        finally:
            ended.set()
            keeper.join()
        if closed:
            self._client.delete_message(QueueUrl=self._url, ReceiptHandle=receipt)

    def _keep(self, receipt: str, ended: threading.Event) -> None:
        while not ended.wait(self._visibility / 3):
            self._client.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=self._visibility
            )

    def run(self) -> None:
        """Poll until told to stop."""
        stop = self._service.stop.requested
        while not stop.is_set():
            try:
                self.poll()
            except Exception as error:
                log.error("queue failed", error=str(error))
                stop.wait(5)
