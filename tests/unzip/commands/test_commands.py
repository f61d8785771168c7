"""The command as people and CronJobs call it: a process, its exit code, its output."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client.parser import text_string_to_metric_families

from kit.settings import environment_variables
from tests.ports import free_port
from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.faults import Faults, faulty
from tests.unzip.receiver import receiving
from tests.unzip.support import files_below, manifest_of, put, settings_for
from tests.waits import SECONDS
from unzip.commands.common import bucket_of
from unzip.commands.extract import address
from unzip.metrics import Metrics
from unzip.s3.client import S3
from unzip.s3.errors import SlowDown
from unzip.settings import UnzipSettings

KEY, RESULT = "kim/result.zip", "kim/result/"
_BYTECODE = str(Path(tempfile.gettempdir()) / "slipway-tests-bytecode")
PROGRAM = [sys.executable, "-c", "from unzip.cli import main; main()"]


def environment(server: S3Server, bucket: str, **more: str) -> dict[str, str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith("UNZIP_")}
    # Compiled once instead of at every start: most of these tests' time.
    base.pop("PYTHONDONTWRITEBYTECODE", None)
    base["PYTHONPYCACHEPREFIX"] = _BYTECODE
    return base | server.environment() | {"UNZIP_BUCKET": bucket} | more


@contextmanager
def held_at_its_fourth_file(server: S3Server, below: str) -> Iterator[Faults]:
    """A way to the server on which everything is held from the fourth write ``below`` on."""
    with faulty(server.url) as gate:
        writes = itertools.count()
        gate.holds = lambda method, path: (
            method == "PUT" and path.startswith(below) and next(writes) == 3
        )
        yield gate


def unzip(
    server: S3Server, bucket: str, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(server, bucket, **more),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_night_at_the_office(s3_server: S3Server, store: S3, bucket: str) -> None:
    """run, status, retry, extract, one after the other, as a person would."""
    put(store, KEY, zips.standard({"a.txt": b"1", "b/c.log": b"2"}))
    put(store, "eve/result.zip", zips.BAD["name climbs"][0])
    with receiving() as backend, receiving() as slack:
        told = {
            "UNZIP_BACKEND_URL": backend.url,
            "UNZIP_BACKEND_SECRET": "s3cret",
            "UNZIP_SLACK_WEBHOOK_URL": slack.url,
            "UNZIP_SLACK_SECONDS": "0",
        }
        preview = unzip(s3_server, bucket, "run", "--dry-run")
        assert [row["message"] for row in lines(preview.stdout)] == ["would extract"] * 2
        assert files_below(store, RESULT) == {}

        done = unzip(s3_server, bucket, "run", **told)
        assert done.returncode == 0, done.stderr
        assert lines(done.stdout)[-1]["outcomes"] == {"published": 1, "refused": 1}
        assert "s3cret" not in done.stdout
        assert len(backend.requests) == len(slack.requests) == 2

    assert files_below(store, RESULT) == {"a.txt": b"1", "b/c.log": b"2"}
    rows = json.loads(unzip(s3_server, bucket, "status", "--json").stdout)
    assert [(row["key"], row["state"], row["reason"]) for row in rows] == [
        ("eve/result.zip", "refused", "name_climbs"),
        (KEY, "published", ""),
    ]
    assert "name_climbs" in unzip(s3_server, bucket, "status", "eve/result.zip").stdout

    assert unzip(s3_server, bucket, "retry", KEY).returncode == 2
    assert unzip(s3_server, bucket, "retry", "eve/result.zip").returncode == 0

    assert unzip(s3_server, bucket, "retry", KEY, "--force").returncode == 0
    again = unzip(s3_server, bucket, "retry", KEY, "--force")
    assert "as run 2" in again.stdout  # it is open already, and is not opened twice
    assert manifest_of(store, RESULT) is not None  # published until it is published anew
    third = unzip(s3_server, bucket, "run")
    assert lines(third.stdout)[-1]["outcomes"] == {"refused": 1, "published": 1}
    assert manifest_of(store, RESULT) is not None


def test_extract_by_hand(s3_server: S3Server, store: S3, bucket: str) -> None:
    put(store, "any/thing.zip", zips.standard({"a.txt": b"1"}))
    source, target = f"s3://{bucket}/any/thing.zip", f"s3://{bucket}/out"
    done = unzip(s3_server, bucket, "extract", source, target, "--json")
    assert json.loads(done.stdout)["members"][0]["path"] == "a.txt"
    assert files_below(store, "out/") == {"a.txt": b"1"}
    assert manifest_of(store, "out/") is not None
    put(store, "any/bad.zip", zips.BAD["wrong crc"][0])
    source = f"s3://{bucket}/any/bad.zip"
    bad = unzip(s3_server, bucket, "extract", source, f"s3://{bucket}/bad", "--dry-run")
    assert bad.returncode == 4
    assert "wrong_crc" in bad.stderr


def test_a_manifest_does_not_outlive_its_files(s3_server: S3Server, store: S3, bucket: str) -> None:
    """Found: extracting anew by hand left the old manifest beside files of two versions."""
    put(store, "any/thing.zip", zips.standard({f"{n:05}": b"new" for n in range(1500)}))
    for name in ("_manifest.json", "00700"):
        store.put(f"out/{name}", b"{}", "application/json", {})
    options = {"UNZIP_DRAIN_SECONDS": "0.001", "UNZIP_WRITERS": "1"}
    with held_at_its_fourth_file(s3_server, f"/{bucket}/out/") as gate:
        process = subprocess.Popen(
            [*PROGRAM, "extract", f"s3://{bucket}/any/thing.zip", f"s3://{bucket}/out"],
            env=environment(S3Server(gate.url, s3_server.folder), bucket, **options),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert gate.held.wait(SECONDS)
        process.send_signal(signal.SIGTERM)
        gate.released.set()
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, errors
    assert "carries no manifest" in errors
    assert manifest_of(store, "out/") is None


def test_retries_are_counted_by_code(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric, from the fault to the number that is scraped."""
    metrics = Metrics()
    with faulty(s3_server.url) as faults:
        for name, value in environment(s3_server, bucket).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faults.url)
        store = bucket_of(settings_for(bucket, request_attempts=2), metrics=metrics)
        faults.rate, faults.kinds = 1.0, ("slow_down",)
        with pytest.raises(SlowDown):
            store.put(KEY, b"1", "text/plain", {})
        repeated = faults.happened["slow_down"] - 1
    found = metrics.registry.get_sample_value("slipway_unzip_retries_total", {"code": "SlowDown"})
    assert found == repeated == 2


def test_addresses() -> None:
    assert address("s3://bucket/a b/c#d?e.zip") == ("bucket", "a b/c#d?e.zip")
    assert address("s3://bucket") == ("bucket", "")
    for wrong in ("bucket/key", "https://bucket/key", "s3:///key"):
        with pytest.raises(typer.Exit) as exit_:
            address(wrong)
        assert exit_.value.exit_code == 2


def test_wrong_settings_name_themselves(s3_server: S3Server, bucket: str) -> None:
    wrong = unzip(s3_server, bucket, "run", UNZIP_WRITERS="many")
    assert wrong.returncode == 2
    assert "UNZIP_WRITERS" in wrong.stderr
    assert "many" in wrong.stderr


def test_s3_that_is_not_there(s3_server: S3Server, bucket: str) -> None:
    gone = unzip(
        s3_server,
        bucket,
        "run",
        AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{free_port()}",
        UNZIP_REQUEST_ATTEMPTS="2",
    )
    assert gone.returncode == 1
    assert lines(gone.stdout)[-1]["message"] == "storage failed"


def test_settings_are_all_described() -> None:
    rows = environment_variables(UnzipSettings)
    assert {"UNZIP_BUCKET", "UNZIP_LEASE_SECONDS", "POD_NAME"} <= {row["name"] for row in rows}
    assert all(row["description"] for row in rows)


def test_sigterm_drains(s3_server: S3Server, store: S3, bucket: str) -> None:
    """Told to stop in the middle, it ends within its grace, and the next run goes on."""
    files = {f"{n:05}": b"x" for n in range(1500)}
    put(store, KEY, zips.standard(files))
    options = {"UNZIP_DRAIN_SECONDS": "0.2", "UNZIP_WRITERS": "2"}
    with held_at_its_fourth_file(s3_server, f"/{bucket}/{RESULT}") as gate:
        process = subprocess.Popen(
            [*PROGRAM, "run"],
            env=environment(S3Server(gate.url, s3_server.folder), bucket, **options),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert gate.held.wait(SECONDS)
        process.send_signal(signal.SIGTERM)
        gate.released.set()
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    messages = [row["message"] for row in lines(output)]
    assert "draining" in messages
    assert ("given back" in messages) != ("published" in messages)
    following = unzip(s3_server, bucket, "run")
    if "given back" in messages:
        assert lines(following.stdout)[-1]["outcomes"] == {"published": 1}
    assert sum(1 for _ in store.entries(RESULT)) == 1501


def test_peak_memory(s3_server: S3Server, store: S3, bucket: str) -> None:
    """Under 200 MiB with a large text, a large stored member and many small files at once."""
    line = b"%032d a line of some text that deflates well enough\n"
    text = b"".join(line % n for n in range(1_200_000))
    entries = [zips.Entry(b"big.txt", text), zips.Entry(b"big.bin", zips.noise(40 << 20), method=0)]
    entries += [zips.Entry(f"{n:05}".encode(), zips.noise(9000), method=0) for n in range(1000)]
    store.put(KEY, zips.build(*entries), "application/zip", {})
    process = subprocess.Popen(
        [*PROGRAM, "run"], env=environment(s3_server, bucket), stdout=subprocess.DEVNULL
    )
    # Not ru_maxrss: that counts what the child shared with this process before it was `unzip`.
    peak = 0
    own = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        if found := re.search(r"VmHWM:\s+(\d+) kB", own.read_text()):
            peak = max(peak, int(found.group(1)))
        time.sleep(0.005)
    assert process.returncode == 0
    assert sum(1 for _ in store.entries(RESULT)) == 1003
    assert 30 << 10 < peak < 200 << 10


def test_a_run_pushes_what_it_counted(s3_server: S3Server, store: S3, bucket: str) -> None:
    """As the Pushgateway's API has it: a PUT of the text format to /metrics/job/<job>."""
    put(store, KEY, zips.standard({"a.txt": b"1", "b.txt": b"22"}))
    put(store, "eve/result.zip", zips.BAD["name climbs"][0])
    with receiving() as gateway, receiving() as backend:
        backend.answers = [(503, {"retry-after": "60"})] * 2
        done = unzip(
            s3_server,
            bucket,
            "run",
            UNZIP_PUSHGATEWAY_URL=gateway.url,
            UNZIP_BACKEND_URL=backend.url,
            RELEASE_NAME="extractor",
        )
    assert done.returncode == 0, done.stderr
    assert gateway.paths == ["PUT /metrics/job/extractor"]
    text = gateway.requests[0][1].decode()
    samples = {
        (sample.name.removeprefix("slipway_unzip_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["archives_total", "published"] == 1
    assert samples["archives_total", "refused"] == 1
    assert samples["refusals_total", "name_climbs"] == 1
    assert samples["members_total",] == 2
    assert samples["bytes_total", "published"] == 3
    assert samples["outbox_depth",] == 2  # the backend was down for both
    assert samples["oldest_unprocessed_seconds",] > 0
    assert samples["phase_seconds_count", "publish"] == 1


def test_a_gateway_that_is_down_fails_no_run(s3_server: S3Server, store: S3, bucket: str) -> None:
    put(store, KEY, zips.standard({"a.txt": b"1"}))
    done = unzip(s3_server, bucket, "run", UNZIP_PUSHGATEWAY_URL=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 0, done.stderr
    assert "metrics not pushed" in done.stdout + done.stderr
    assert files_below(store, RESULT) == {"a.txt": b"1"}
