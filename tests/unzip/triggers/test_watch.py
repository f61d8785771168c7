"""Notifications: from versitygw's own webhook, from SQS, and lost ones."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer
from starlette.types import ASGIApp

from kit.lifecycle.health import Health
from tests.aws_calls import held_against_its_policy
from tests.ports import free_port
from tests.s3 import S3Server, serve_s3
from tests.unzip import zips
from tests.unzip.conftest import session
from tests.unzip.support import Recorder, files_below, manifest_of, put, service_on
from tests.waits import SECONDS, until
from unzip.extract.extractor import Extractor
from unzip.processing.service import Service
from unzip.s3.client import S3
from unzip.triggers.sqs import SqsQueue
from unzip.triggers.watcher import Watcher
from unzip.triggers.webhook import create_app

KEY, RESULT = "kim/result.zip", "kim/result/"


def event(bucket: str, key: str) -> bytes:
    s3 = {"bucket": {"name": bucket}, "object": {"key": key}}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": s3}]}).encode()


def test_webhook_from_put_to_manifest(tmp_path: Path) -> None:
    """The whole way with real programs: versitygw tells `unzip watch`, which extracts."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["--event-webhook-url", f"{url}/events"]
    # versitygw wants its webhook to answer when it starts, so the watcher comes first, pointed
    # at where the server will be.
    with serve_s3(tmp_path / "probe", ["archives"]) as early:
        environment = early.environment() | {
            "UNZIP_PORT": str(port),
            "UNZIP_STOP_DELAY_SECONDS": "0",
            "UNZIP_WATCH_LIST_SECONDS": "3600",
        }
        with watching(environment, tmp_path / "watch.log"):
            until(lambda: _answers(f"{url}/readyz"))
            # The same data behind a second gateway, which does the telling.
            (tmp_path / "data").symlink_to(early.folder)
            with serve_s3(tmp_path, options=options) as server:
                store = S3("archives", session=session(), endpoint=server.url)
                put(store, KEY, zips.standard({"가.txt": b"1"}))
                until(lambda: manifest_of(store, RESULT) is not None)
                assert files_below(store, RESULT) == {"가.txt": b"1"}
            metrics = httpx.get(f"{url}/metrics").text
            assert 'slipway_unzip_archives_total{outcome="published"} 1.0' in metrics


def test_sigterm_takes_no_more_archives(
    s3_server: S3Server, store: S3, bucket: str, tmp_path: Path
) -> None:
    """Found: archives were begun until the web server had ended, long after the signal."""
    port, log = free_port(), tmp_path / "watch.log"
    environment = s3_server.environment() | {
        "UNZIP_BUCKET": bucket,
        "UNZIP_PORT": str(port),
        "UNZIP_STOP_DELAY_SECONDS": "3",
        "UNZIP_WATCH_LIST_SECONDS": "0.05",
    }
    with watching(environment, log) as process:
        until(lambda: _answers(f"http://127.0.0.1:{port}/readyz"))
        process.terminate()
        until(lambda: b'"draining"' in log.read_bytes())
        put(store, KEY, zips.standard({"a": b"1"}))
        answer = httpx.post(f"http://127.0.0.1:{port}/events", content=event(bucket, KEY))
        assert answer.status_code == 503
        assert process.wait(SECONDS) == 0
    assert list(store.entries(RESULT)) == []


class watching:  # noqa: N801 - used as a with statement
    """`unzip watch` as a process, stopped by SIGTERM at the end."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log

    def __enter__(self) -> subprocess.Popen[bytes]:
        import os

        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from unzip.cli import main; main()", "watch"],
                env=os.environ | self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            code = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        assert code == 0, self._log.read_text()[-2000:]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


class Client:
    """Requests to an application within this process."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def _send(self, method: str, path: str, content: bytes = b"") -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://unzip") as client:
                return await client.request(method, path, content=content)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        return self._send("GET", path)

    def post(self, path: str, *, content: bytes) -> httpx.Response:
        return self._send("POST", path, content)


@contextmanager
def started(service: Service) -> Iterator[Watcher]:
    """A watcher that ends with the block, also with a failed one: it would log into other tests."""
    watcher = Watcher(service)
    watcher.start()
    try:
        yield watcher
    finally:
        service.stop.request(5)
        watcher.join()


@pytest.fixture
def watcher(store: S3, extractor: Extractor) -> Iterator[tuple[Watcher, Client]]:
    service = service_on(store, extractor, watch_list_seconds=3600)
    with started(service) as watcher:
        yield watcher, Client(create_app(service, watcher, Health()))


def test_posted_events_are_processed(store: S3, watcher: tuple[Watcher, Client]) -> None:
    _, client = watcher
    put(store, KEY, zips.standard({"a": b"1"}))
    for _ in range(3):  # told twice and more often: done once
        answer = client.post("/events", content=event(store.bucket, KEY))
        assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    until(lambda: manifest_of(store, RESULT) is not None)
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(("body", "status"), [(b"x", 400), (b"{}", 400), (b" " * 300_000, 413)])
def test_bad_events(watcher: tuple[Watcher, Client], body: bytes, status: int) -> None:
    answer = watcher[1].post("/events", content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_other_keys_are_not_ours(store: S3, watcher: tuple[Watcher, Client]) -> None:
    for key in ("kim/other.zip", "result.zip", ".slipway/unzip/x/result.zip"):
        answer = watcher[1].post("/events", content=event(store.bucket, key))
        assert answer.json() == {"accepted": 0}


def test_lost_events_are_found_by_listing(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    service = service_on(store, extractor, watch_list_seconds=0.05)
    with started(service):
        until(lambda: manifest_of(store, RESULT) is not None)
        put(store, "lee/result.zip", zips.standard({"b": b"1"}))
        until(lambda: manifest_of(store, "lee/result/") is not None)


@pytest.fixture(autouse=True)
def calls() -> Iterator[set[str]]:
    """Found: the policy in docs/aws/iam had nothing of the queue."""
    with held_against_its_policy("unzip") as seen:
        yield seen


@pytest.fixture(scope="module")
def sqs() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "sqs",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    server.stop()


@pytest.fixture
def queue_url(sqs: Any, bucket: str) -> str:
    url: str = sqs.create_queue(QueueName=f"q-{bucket}")["QueueUrl"]
    return url


def _left(sqs: Any, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(value) for value in attributes.values())


def test_sqs_message_goes_when_its_archive_is_closed(
    store: S3, extractor: Extractor, sqs: Any, queue_url: str, calls: set[str]
) -> None:
    backend = Recorder()
    put(store, KEY, zips.standard({"a": b"1"}))
    put(store, "bad/result.zip", zips.BAD["wrong crc"][0])
    for key in (KEY, KEY, "bad/result.zip", "gone/result.zip"):
        sqs.send_message(QueueUrl=queue_url, MessageBody=event(store.bucket, key).decode())
    service = service_on(store, extractor, backend, archives_at_once=4)
    # The second message of one archive may come while the first is worked on: it comes again.
    queue = SqsQueue(sqs, queue_url, service, visibility_seconds=1)
    until(lambda: queue.poll(wait_seconds=0) == 0 and not _left(sqs, queue_url))
    assert files_below(store, RESULT) == {"a": b"1"}
    assert sorted(event["data"]["outcome"] for event in backend.events) == ["published", "refused"]
    assert {"sqs:ReceiveMessage", "sqs:DeleteMessage"} <= calls


def test_sqs_message_stays_while_somebody_else_has_the_archive(
    store: S3, extractor: Extractor, sqs: Any, queue_url: str
) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    service = service_on(store, extractor)
    head = store.head(KEY)
    from unzip.ledger.records import Archive

    assert service.ledger.claim(Archive(store.bucket, KEY, head.etag, head.size))
    sqs.send_message(QueueUrl=queue_url, MessageBody=event(store.bucket, KEY).decode())
    assert SqsQueue(sqs, queue_url, service).poll(wait_seconds=0) == 1
    assert _left(sqs, queue_url) == 1


def test_sqs_message_that_nobody_understands_is_left_to_the_redrive_policy(
    store: S3, extractor: Extractor, sqs: Any, queue_url: str
) -> None:
    sqs.send_message(QueueUrl=queue_url, MessageBody="hello")
    assert SqsQueue(sqs, queue_url, service_on(store, extractor)).poll(wait_seconds=0) == 1
    assert _left(sqs, queue_url) == 1
