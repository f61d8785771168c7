"""Several workers at once, as processes: they share the work; one that freezes does no harm."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.commands.test_commands import PROGRAM, environment, lines, unzip
from tests.unzip.faults import Faults, faulty
from tests.unzip.receiver import Receiver, receiving
from tests.unzip.support import files_below, manifest_of, put
from tests.waits import SECONDS, until
from unzip.s3.client import S3


def _start(server: S3Server, bucket: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, "run"],
        env=environment(server, bucket, **more),
        stdout=subprocess.PIPE,
        text=True,
    )


def _told(receiver: Receiver) -> list[str]:
    return sorted(json.loads(body)["subject"] for _, body in receiver.requests)


def test_racing_workers_share_the_work(s3_server: S3Server, store: S3, bucket: str) -> None:
    users = [f"user-{n:02}" for n in range(12)]
    for number, user in enumerate(users):
        files = {f"{n}": user.encode() for n in range(20 + number)}
        put(store, f"{user}/result.zip", zips.standard(files))
    with receiving() as backend, faulty(s3_server.url) as gate:
        through = S3Server(gate.url, s3_server.folder)
        gate.holds = lambda method, path: method == "PUT" and "/result/" in path
        gate.only_these = True
        options = {"UNZIP_BACKEND_URL": backend.url, "UNZIP_ARCHIVES_AT_ONCE": "1"}
        workers = [_start(through, bucket, **options) for _ in range(3)]
        # No file is written before each has an archive, so that none does it all alone.
        until(lambda: len(list(store.entries(".slipway/unzip/open/"))) >= 3, "three claims")
        gate.released.set()
        outputs = [worker.communicate(timeout=SECONDS)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0]
        assert _told(backend) == [f"{user}/result.zip" for user in users]
    rows = [row for output in outputs for row in lines(output)]
    published = [row["key"] for row in rows if row["message"] == "published"]
    busy = [output for output in outputs if '"message": "published"' in output]
    assert len(busy) >= 2, "one worker did it all"
    assert sorted(published) == [f"{user}/result.zip" for user in users]
    for number, user in enumerate(users):
        assert len(files_below(store, f"{user}/result/")) == 20 + number


LEASE = 5


@dataclass
class Frozen:
    """A worker stopped (SIGSTOP) with a file half written, and where its requests pass."""

    worker: subprocess.Popen[str]
    gate: Faults
    since: float
    folder: Path

    def let_its_lease_end(self, store: S3) -> None:
        """Its claim is now an hour old by the server's clock; nobody waits for that."""
        (entry,) = store.entries(".slipway/unzip/open/")
        claim = self.folder / entry.key
        os.utime(claim, (claim.stat().st_atime, claim.stat().st_mtime - 3600))
        assert store.get(entry.key).age > LEASE

    def wake(self) -> str:
        """Let it go on after its own clock has passed the lease; what it says until its end."""
        until(lambda: time.monotonic() > self.since + LEASE, "the end of the lease")
        os.kill(self.worker.pid, signal.SIGCONT)
        self.gate.released.set()
        output, _ = self.worker.communicate(timeout=SECONDS)
        assert self.worker.returncode == 0
        return output


@contextmanager
def frozen_in_mid_work(server: S3Server, bucket: str, **more: str) -> Iterator[Frozen]:
    """A worker that stands still while it writes its fourth file."""
    with faulty(server.url) as gate:
        files = itertools.count()
        gate.holds = lambda method, path: (
            method == "PUT" and "/kim/result/" in path and next(files) == 3
        )
        options = {"UNZIP_LEASE_SECONDS": str(LEASE), "UNZIP_WRITERS": "1"} | more
        worker = _start(S3Server(gate.url, server.folder), bucket, **options)
        try:
            assert gate.held.wait(SECONDS)
            os.kill(worker.pid, signal.SIGSTOP)
            yield Frozen(worker, gate, time.monotonic(), server.folder / bucket)
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.communicate()


def test_frozen_worker_is_replaced_and_wakes_harmlessly(
    s3_server: S3Server, store: S3, bucket: str
) -> None:
    files = {f"{n:04}": b"same" for n in range(1500)}
    put(store, "kim/result.zip", zips.standard(files))
    with receiving() as backend:
        told = {"UNZIP_BACKEND_URL": backend.url}
        with frozen_in_mid_work(s3_server, bucket, **told) as frozen:
            assert manifest_of(store, "kim/result/") is None
            frozen.let_its_lease_end(store)
            second = unzip(s3_server, bucket, "run", **told)
            assert lines(second.stdout)[-1]["outcomes"] == {"published": 1}
            manifest = manifest_of(store, "kim/result/")
            said = frozen.wake()
        assert "lease lost" in [row["message"] for row in lines(said)]
        assert len(backend.requests) == 1
    assert manifest_of(store, "kim/result/") == manifest
    assert sum(1 for _ in store.entries("kim/result/")) == 1501


def test_frozen_worker_of_a_replaced_archive_overwrites_nothing(
    s3_server: S3Server, store: S3, bucket: str
) -> None:
    put(store, "kim/result.zip", zips.standard({f"{n:04}": b"old" for n in range(1500)}))
    with frozen_in_mid_work(s3_server, bucket) as frozen:
        put(store, "kim/result.zip", zips.standard({f"{n:04}": b"new" for n in range(0, 1500, 2)}))
        frozen.let_its_lease_end(store)
        second = unzip(s3_server, bucket, "run")
        assert lines(second.stdout)[-1]["outcomes"] == {"published": 1}
        frozen.wake()
    document: Any = manifest_of(store, "kim/result/")
    assert document["source"]["etag"] == store.head("kim/result.zip").etag.strip('"')
    for row in document["members"][::50]:
        assert store.get("kim/result/" + row["path"]).body == b"new"
