"""Several workers at once, as processes: they share the work; one that freezes does no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.receiver import Receiver, receiving
from tests.unzip.support import files_below, manifest_of, put
from tests.unzip.test_cli import PROGRAM, environment, lines, unzip
from unzip.store import S3


def _start(server: S3Server, bucket: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, "run"],
        env=environment(server, bucket, **more),
        stdout=subprocess.PIPE,
        text=True,
    )


def _told(receiver: Receiver) -> list[str]:
    return sorted(json.loads(body)["subject"] for _, body in receiver.requests)


def _wait(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_racing_workers_share_the_work(s3_server: S3Server, store: S3, bucket: str) -> None:
    users = [f"user-{n:02}" for n in range(12)]
    for number, user in enumerate(users):
        files = {f"{n}": user.encode() for n in range(60 + number)}
        put(store, f"{user}/result.zip", zips.standard(files))
    with receiving() as backend:
        # One writer each, so that none has done it all before the others are there.
        told = {"UNZIP_BACKEND_URL": backend.url, "UNZIP_WRITERS": "1"}
        workers = [_start(s3_server, bucket, **told) for _ in range(3)]
        outputs = [worker.communicate(timeout=100)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0]
        assert _told(backend) == [f"{user}/result.zip" for user in users]
    rows = [row for output in outputs for row in lines(output)]
    published = [row["key"] for row in rows if row["message"] == "published"]
    busy = [output for output in outputs if '"message": "published"' in output]
    assert len(busy) >= 2, "one worker did it all"
    assert sorted(published) == [f"{user}/result.zip" for user in users]
    for number, user in enumerate(users):
        assert len(files_below(store, f"{user}/result/")) == 60 + number


def _frozen_in_mid_work(
    server: S3Server, bucket: str, folder: Path, **more: str
) -> subprocess.Popen[str]:
    """A worker that was stopped (SIGSTOP) while it uploads."""
    worker = _start(server, bucket, UNZIP_LEASE_SECONDS="2", UNZIP_WRITERS="1", **more)
    _wait(lambda: folder.is_dir() and sum(1 for _ in folder.iterdir()) > 3)
    os.kill(worker.pid, signal.SIGSTOP)
    return worker


def _stale(store: S3, seconds: float = 3.5) -> None:
    """Wait until the claim has not been renewed for that long, by the server's clock."""

    def is_stale() -> bool:
        (entry,) = store.entries(".slipway/unzip/open/")
        return store.get(entry.key).age > seconds

    _wait(is_stale)


def test_frozen_worker_is_replaced_and_wakes_harmlessly(
    s3_server: S3Server, store: S3, bucket: str
) -> None:
    files = {f"{n:04}": b"same" for n in range(1500)}
    put(store, "kim/result.zip", zips.standard(files))
    folder = s3_server.folder / bucket / "kim" / "result"
    with receiving() as backend:
        told = {"UNZIP_BACKEND_URL": backend.url}
        frozen = _frozen_in_mid_work(s3_server, bucket, folder, **told)
        assert manifest_of(store, "kim/result/") is None
        _stale(store)
        second = unzip(s3_server, bucket, "run", **told)
        assert lines(second.stdout)[-1]["outcomes"] == {"published": 1}
        manifest = manifest_of(store, "kim/result/")
        os.kill(frozen.pid, signal.SIGCONT)
        output, _ = frozen.communicate(timeout=60)
        assert frozen.returncode == 0
        assert "lease lost" in [row["message"] for row in lines(output)]
        assert len(backend.requests) == 1
    assert manifest_of(store, "kim/result/") == manifest
    assert sum(1 for _ in store.entries("kim/result/")) == 1501


def test_frozen_worker_of_a_replaced_archive_overwrites_nothing(
    s3_server: S3Server, store: S3, bucket: str
) -> None:
    put(store, "kim/result.zip", zips.standard({f"{n:04}": b"old" for n in range(1500)}))
    folder = s3_server.folder / bucket / "kim" / "result"
    frozen = _frozen_in_mid_work(s3_server, bucket, folder)
    put(store, "kim/result.zip", zips.standard({f"{n:04}": b"new" for n in range(0, 1500, 2)}))
    _stale(store)
    second = unzip(s3_server, bucket, "run")
    assert lines(second.stdout)[-1]["outcomes"] == {"published": 1}
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.communicate(timeout=60)
    assert frozen.returncode == 0
    document: Any = manifest_of(store, "kim/result/")
    assert document["source"]["etag"] == store.head("kim/result.zip").etag.strip('"')
    for row in document["members"][::50]:
        assert store.get("kim/result/" + row["path"]).body == b"new"
