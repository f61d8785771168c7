"""One archive under the ledger: published, refused, replaced, resumed, fenced."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.support import (
    Killed,
    Later,
    Mortal,
    Recorder,
    files_below,
    manifest_of,
    put,
    service_on,
    settings_for,
)
from tests.waits import SECONDS, until
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.extract.publication import Publication
from unzip.extract.source import SOURCE_TAG, Source
from unzip.ledger.lease import Heartbeat, LeaseLost
from unzip.ledger.ledger import Ledger
from unzip.ledger.records import Archive, State
from unzip.processing import timing
from unzip.processing.stop import Stop
from unzip.refusals import Reason
from unzip.s3.capabilities import copies_rightly
from unzip.s3.client import S3, Buffer
from unzip.s3.errors import Missing
from unzip.s3.types import Absent, Entry
from unzip.zip.limits import Limits

KEY, RESULT = "kim/result.zip", "kim/result/"


def test_publishes_files_types_and_manifest(store: S3, extractor: Extractor) -> None:
    files = {
        "a.log": b"one\n",
        "폴더/b.webp": zips.noise(9000),
        "c.jsonl": b"{}\n",
        "d.csv": "가,나\n".encode("cp949"),
    }
    etag = put(store, KEY, zips.standard(files))
    backend = Recorder()
    tally = service_on(store, extractor, backend).sweep()
    assert tally.outcomes == {"published": 1}
    assert files_below(store, RESULT) == files
    types = {path: store.head(RESULT + path).content_type for path in files}
    assert types == {
        "a.log": "text/plain; charset=utf-8",
        "폴더/b.webp": "image/webp",
        "c.jsonl": "application/jsonl",
        "d.csv": "text/csv",
    }
    document = manifest_of(store, RESULT)
    assert document is not None
    assert document["source"] == {
        "bucket": store.bucket,
        "key": KEY,
        "etag": etag.strip('"'),
        "size": store.head(KEY).size,
    }
    assert {row["path"]: row["content_type"] for row in document["members"]} == types
    assert [event["type"] for event in backend.events] == ["slipway.archive.published"]


def test_a_second_sweep_does_nothing(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    backend = Recorder()
    service_on(store, extractor, backend).sweep()
    before = {entry.key: entry.modified for entry in store.entries("")}
    tally = service_on(store, extractor, backend).sweep()
    assert (tally.found, tally.started) == (1, 0)
    assert {entry.key: entry.modified for entry in store.entries("")} == before
    assert len(backend.events) == 1


@pytest.mark.parametrize("name", zips.BAD)
def test_nothing_of_a_bad_archive_is_visible(store: S3, extractor: Extractor, name: str) -> None:
    data, reason = zips.BAD[name]
    put(store, KEY, data)
    watched = Mortal(store)
    service = service_on(watched, extractor)
    assert service.sweep().outcomes == {"refused": 1}
    assert list(store.entries(RESULT)) == []
    archive = Archive(store.bucket, KEY, store.head(KEY).etag, len(data))
    outcome = service.ledger.outcome(archive)
    assert outcome is not None
    assert outcome.reason == reason
    # Not even for a moment: nothing was ever sent there.
    there = {call.split()[0] for call in watched.calls if call.split()[-1].startswith(RESULT)}
    assert there == {"list_uploads"}


@pytest.mark.parametrize("name", zips.GOOD)
def test_good_archives_arrive_byte_for_byte(store: S3, extractor: Extractor, name: str) -> None:
    data, files = zips.GOOD[name]
    put(store, KEY, data)
    assert service_on(store, extractor).sweep().outcomes == {"published": 1}
    assert files_below(store, RESULT) == files
    document = manifest_of(store, RESULT)
    assert document is not None
    assert sorted(row["path"] for row in document["members"]) == sorted(files)
    assert document["empty"] == name.startswith("empty") * ("archive" in name)
    assert document["skipped"] == {
        "symbolic link": [
            {"path": "l", "reason": "symbolic_link", "size": 11, "target": "/etc/passwd"}
        ],
        "device": [{"path": "null", "reason": "device", "size": 0}],
    }.get(name, [])


def test_a_bomb_costs_no_more_than_its_directory(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.BOMB)
    watched = Mortal(store)
    service_on(watched, extractor).sweep()
    reads = [call for call in watched.calls if call.startswith("read ")]
    assert len(reads) == 1
    assert list(store.entries(RESULT)) == []


def test_a_bad_archive_does_not_stop_the_others(store: S3, extractor: Extractor) -> None:
    for number, (data, _) in enumerate(list(zips.BAD.values())[:10]):
        put(store, f"bad-{number}/result.zip", data)
    put(store, "zed/result.zip", zips.standard({"a": b"1"}))
    tally = service_on(store, extractor, archives_at_once=3).sweep()
    assert tally.outcomes == {"refused": 10, "published": 1}
    assert files_below(store, "zed/result/") == {"a": b"1"}


def test_large_members_go_up_in_parts(store: S3) -> None:
    """Deflated ones are sent, stored ones are copied by S3 from the archive itself."""
    files = {"big.txt": b"line of text\n" * 900_000, "small": b"1"}
    stored = zips.noise(11 << 20)
    entries = [zips.Entry(name.encode(), data) for name, data in files.items()]
    data = zips.build(*entries, zips.Entry(b"big.bin", stored, method=0))
    put(store, KEY, data)
    watched = Mortal(store)
    options = Options(part_bytes=5 << 20, copies_rightly=copies_rightly(store, ".slipway/unzip/"))
    with Extractor(options) as wide:
        assert service_on(watched, wide).sweep().outcomes == {"published": 1}
    assert files_below(store, RESULT) == files | {"big.bin": stored}
    sent = [call for call in watched.calls if call.startswith("upload_part")]
    copied = [call for call in watched.calls if call.startswith("copy_part")]
    assert sent == [f"upload_part {RESULT}big.txt"] * 3
    assert copied == [f"copy_part {RESULT}big.bin"]
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("bad", ["the large member", "a small one behind it"])
def test_parts_of_a_bad_archive_are_never_seen(store: S3, method: int, bad: str) -> None:
    """A large member is on its way before the archive is proved: nothing of it may stay."""
    lie = {"local": {"crc": 77}, "central": {"crc": 77}}
    large, small = zips.Entry(b"big.bin", zips.noise(6 << 20), method=method), zips.A
    if bad == "the large member":
        large = replace(large, **lie)
    else:
        small = replace(small, **lie)
    data = zips.build(large, small)
    put(store, KEY, data)
    watched = Mortal(store)
    options = Options(part_bytes=5 << 20, copies_rightly=lambda: True)
    with Extractor(options) as wide:
        assert service_on(watched, wide).sweep().outcomes == {"refused": 1}
        assert wide.kept.offer(options.keep_bytes)  # nothing is held any longer
    assert list(store.entries(RESULT)) == []
    assert list(store.list_uploads("")) == []
    assert not any(call.startswith(("complete_upload", f"put {RESULT}")) for call in watched.calls)


def test_parts_of_a_member_that_lies_about_its_size_are_aborted(store: S3) -> None:
    """They go up before the lie shows; nobody can see them, and they do not stay."""
    said = {"size": 9 << 20}
    lie = zips.Entry(b"big.bin", zips.noise(12 << 20), local=said, central=said)
    put(store, KEY, zips.build(lie))
    watched = Mortal(store)
    with Extractor(Options()) as default:
        assert service_on(watched, default).sweep().outcomes == {"refused": 1}
    assert any(call.startswith("abort_upload") for call in watched.calls)
    assert list(store.entries(RESULT)) == []
    assert list(store.list_uploads("")) == []


def test_the_age_of_the_oldest_is_known_though_a_limit_stops_the_run(
    store: S3, extractor: Extractor
) -> None:
    """Found: it was set by a listing that came to its end, and else stayed at zero."""
    for n in range(3):
        put(store, f"{n}/result.zip", zips.standard({"a": b"1"}))
    old = datetime.now(UTC) - timedelta(hours=5)

    class Older(Mortal):
        def entries(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
            for entry in self._store.entries(prefix, start_after):
                yield entry._replace(modified=old) if entry.key.startswith("2/") else entry

    service = service_on(Older(store), extractor, run_archives=1)
    tally = service.sweep()
    assert (tally.found, tally.started, tally.outcomes) == (3, 1, {"published": 1})
    age = service.metrics.registry.get_sample_value("slipway_unzip_oldest_unprocessed_seconds")
    assert age is not None
    assert 5 * 3600 <= age < 5 * 3600 + 600


def test_a_charset_that_shows_late_is_right_all_the_same(store: S3) -> None:
    """An upload has its type from its first bytes; a text that turns out otherwise goes again."""
    late = b"line of text\n" * 500_000 + "한국어 문장이 여기에 있습니다.\n".encode("cp949") * 20
    early = b"line of text\n" * 500_000 + "끝".encode()
    put(store, KEY, zips.standard({"late.txt": late, "early.txt": early}))
    with Extractor(Options(part_bytes=5 << 20)) as wide:
        assert service_on(store, wide).sweep().outcomes == {"published": 1}
    assert store.head(RESULT + "late.txt").content_type == "text/plain; charset=euc-kr"
    assert store.head(RESULT + "early.txt").content_type == "text/plain; charset=utf-8"
    assert files_below(store, RESULT) == {"late.txt": late, "early.txt": early}
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize(("keep_bytes", "reads"), [(1 << 20, 2), (0, 3)])
def test_what_memory_holds_is_not_read_again(store: S3, keep_bytes: int, reads: int) -> None:
    files = {f"{n}.txt": b"text\n" * 1000 for n in range(100)}
    put(store, KEY, zips.standard(files))
    watched = Mortal(store)
    with Extractor(Options(keep_bytes=keep_bytes)) as wide:
        assert service_on(watched, wide).sweep().outcomes == {"published": 1}
        assert wide.kept.offer(keep_bytes)
    assert sum(call.startswith("read ") for call in watched.calls) == reads
    assert files_below(store, RESULT) == files


def test_a_replaced_archive_is_a_new_job(store: S3, extractor: Extractor) -> None:
    backend = Recorder()
    put(store, KEY, zips.standard({"a": b"1", "old/b": b"2"}))
    service_on(store, extractor, backend).sweep()
    store.put(RESULT + "notes.txt", b"somebody else's", "text/plain", {})
    put(store, KEY, zips.standard({"a": b"one", "new/c": b"3"}))
    assert service_on(store, extractor, backend).sweep().outcomes == {"published": 1}
    assert files_below(store, RESULT) == {
        "a": b"one",
        "new/c": b"3",
        "notes.txt": b"somebody else's",
    }
    assert len(backend.events) == 2


def test_a_bad_replacement_leaves_the_good_one(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    service_on(store, extractor).sweep()
    before = manifest_of(store, RESULT)
    put(store, KEY, zips.BAD["wrong crc"][0])
    assert service_on(store, extractor).sweep().outcomes == {"refused": 1}
    assert files_below(store, RESULT) == {"a": b"1"}
    assert manifest_of(store, RESULT) == before


class ReplacingInMidRead(Mortal):
    """The user uploads another archive while the n-th range is read."""

    def __init__(self, store: S3, at: int, data: bytes) -> None:
        super().__init__(store)
        self._data = data
        self._reads = 0
        self._when = at

    def read(self, key: str, start: int, end: int, etag: str) -> Buffer:
        self._reads += 1
        if self._reads == self._when:
            put(self._store, key, self._data)
        return self._store.read(key, start, end, etag)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_replacement_in_mid_read_restarts_on_the_new_one(store: S3, at: int) -> None:
    backend = Recorder()
    put(store, KEY, zips.standard({"a": zips.noise(300_000), "gone": b"1"}))
    replacing = ReplacingInMidRead(store, at, zips.standard({"a": zips.noise(300_000, 8)}))
    with Extractor(Options(keep_bytes=0)) as forgetful:
        service = service_on(replacing, forgetful, backend)
        assert service.sweep().outcomes == {"published": 1}
    assert files_below(store, RESULT) == {"a": zips.noise(300_000, 8)}
    assert [event["data"]["outcome"] for event in backend.events] == ["published"]
    assert list(service.ledger.ids("open")) == []


def test_archive_deleted_in_mid_read(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    service = service_on(store, extractor)
    archive = Archive(store.bucket, KEY, store.head(KEY).etag, store.head(KEY).size)
    store.delete(KEY)
    outcome = service.process(archive)
    assert outcome is not None
    assert outcome.state is State.SUPERSEDED


def test_resumes_at_the_member(store: S3, extractor: Extractor) -> None:
    files = {f"{n:02}": str(n).encode() for n in range(40)}
    put(store, KEY, zips.standard(files))
    calls = 0

    def die_at_the_thirtieth(name: str) -> bool:
        nonlocal calls
        calls += name.startswith(f"put {RESULT}")
        return calls == 30

    dying = _DyingWhen(store, die_at_the_thirtieth)
    with pytest.raises(Killed):
        service_on(dying, extractor, checkpoint_members=5).sweep()
    watched = Mortal(Later(store, 100))  # type: ignore[arg-type]
    service = service_on(watched, extractor, checkpoint_members=5)
    assert service.sweep().outcomes == {"published": 1}
    again = [call for call in watched.calls if call.startswith(f"put {RESULT}")]
    assert len(again) <= 31  # at least two checkpoints were spared; the manifest is one of them
    archive = Archive(store.bucket, KEY, store.head(KEY).etag, store.head(KEY).size)
    outcome = service.ledger.outcome(archive)
    assert outcome is not None
    assert "verify" not in outcome.seconds  # proved before; the plan says so
    assert files_below(store, RESULT) == files
    left = [entry.key for entry in store.entries(".slipway/")]
    assert len(left) == 1
    assert "/closed/" in left[0]


def test_a_long_proof_is_kept_however_few_the_files(
    store: S3, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: below a checkpoint's number of files whoever resumed had to prove them all again."""
    put(store, KEY, zips.standard({"a": b"1", "b": b"2"}))
    skipped = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + skipped)
    monkeypatch.setattr(timing, "time", clock)

    def slow_then_dead(name: str) -> bool:
        nonlocal skipped
        skipped += 25.0 * name.startswith("read ")
        return name.startswith(f"put {RESULT}")

    with pytest.raises(Killed):
        service_on(_DyingWhen(store, slow_then_dead), extractor).sweep()
    service = service_on(Later(store, 100), extractor)  # type: ignore[arg-type]
    assert service.sweep().outcomes == {"published": 1}
    outcome = service.ledger.outcome(
        Archive(store.bucket, KEY, store.head(KEY).etag, store.head(KEY).size)
    )
    assert outcome is not None
    assert "verify" not in outcome.seconds
    assert [entry.key.split("/")[2] for entry in store.entries(".slipway/")] == ["closed"]


def test_what_is_done_is_proved_again_and_not_sent_again(store: S3) -> None:
    """Found: without a plan, large members that were there already went up once more."""
    files = {"big.txt": b"line of text\n" * 480_000, "small": b"1"}
    etag = put(store, KEY, zips.standard(files))
    watched: Any = Mortal(store)
    source = Source(store, KEY, etag, store.head(KEY).size)
    with Extractor(Options(part_bytes=5 << 20)) as wide:
        listed = wide.read_directory(source, Limits()).members
        with Publication(
            wide, source, listed, watched, RESULT, check=lambda: None, done={0, 1}
        ) as publication:
            types = wide.verify(source, listed, check=lambda: None, take=publication.take)
            publication.publish(types, fenced=lambda: None, existing={})
    assert types == ["text/plain; charset=utf-8", "application/octet-stream"]
    assert watched.calls == []


class _DyingWhen(Mortal):
    def __init__(self, store: S3, when: Any) -> None:
        super().__init__(store)
        self._when = when

    def step(self, name: str, call: Any) -> Any:
        with self._lock:
            if self.dead or self._when(name):
                self.dead = True
                raise Killed
        return super().step(name, call)


def test_a_fresh_claim_is_left_alone_and_a_stale_one_taken(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    with pytest.raises(Killed):
        service_on(_DyingWhen(store, lambda name: name.startswith("read ")), extractor).sweep()
    tally = service_on(store, extractor).sweep()
    assert (tally.busy, tally.outcomes) == (1, {})
    assert service_on(Later(store, 70), extractor).sweep().outcomes == {"published": 1}  # type: ignore[arg-type]


def test_gives_up_after_so_many_deaths(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    backend = Recorder()
    for n in range(3):
        dying = _DyingWhen(Later(store, 70 * n), lambda name: name.startswith("read "))  # type: ignore[arg-type]
        with pytest.raises(Killed):
            service_on(dying, extractor, max_attempts=3).sweep()
    late: Any = Later(store, 900)
    tally = service_on(late, extractor, backend, max_attempts=3).sweep()
    assert tally.outcomes == {"failed": 1}
    assert backend.events[0]["data"]["reason"] == Reason.TOO_MANY_ATTEMPTS


def test_a_defect_of_ours_stops_nobody_else(
    store: S3, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "aaa/result.zip", zips.standard({"a": b"1"}))
    put(store, KEY, zips.standard({"a": b"1"}))
    whole = Extractor.read_directory

    def defective(self: Extractor, source: Any, limits: Any, reserve: Any) -> Any:
        if source.key.startswith("aaa/"):
            raise ZeroDivisionError("a bug")
        return whole(self, source, limits, reserve)

    monkeypatch.setattr(Extractor, "read_directory", defective)
    backend = Recorder()
    service = service_on(store, extractor, backend, max_attempts=2)
    assert service.sweep().outcomes == {"published": 1}
    service.sweep()
    assert service.sweep().outcomes == {"failed": 1}
    (failed,) = [event["data"] for event in backend.events if event["data"]["outcome"] == "failed"]
    assert "ZeroDivisionError('a bug')" in failed["detail"]


def test_too_slow(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    service = service_on(store, extractor, max_archive_seconds=1e-9)
    assert service.sweep().outcomes == {"refused": 1}
    assert list(store.entries(RESULT)) == []


def test_drain_gives_the_archive_back_with_its_progress(store: S3, extractor: Extractor) -> None:
    files = {f"{n:02}": str(n).encode() for n in range(60)}
    put(store, KEY, zips.standard(files))
    stop = Stop()

    def told(name: str) -> bool:
        if name.startswith(f"put {RESULT}30"):
            stop.request(0)
        return False

    tally = service_on(_DyingWhen(store, told), extractor, stop=stop).sweep()
    assert tally.busy == 1
    assert manifest_of(store, RESULT) is None
    # At once, by anybody: no lease has to run out.
    watched = Mortal(store)
    assert service_on(watched, extractor).sweep().outcomes == {"published": 1}
    assert len([call for call in watched.calls if call.startswith(f"put {RESULT}")]) < 60
    assert files_below(store, RESULT) == files


def test_a_worker_that_lost_its_lease_overwrites_nothing(store: S3, extractor: Extractor) -> None:
    """It sleeps over its lease right before an upload; meanwhile the archive was replaced."""
    put(store, KEY, zips.standard({"a": b"old", "b": b"old"}))
    slept: list[bool] = []

    def sleep_over_it(name: str) -> bool:
        if name == f"put {RESULT}b" and not slept:
            slept.append(True)
            late: Any = Later(store, 100)
            put(store, KEY, zips.standard({"a": b"new", "b": b"new"}))
            assert service_on(late, extractor2).sweep().outcomes == {"published": 1}
        return False

    backend = Recorder()
    narrow = Options(readers=1, writers=1)
    # The successor has threads of its own, as it would.
    with Extractor(narrow) as extractor2, Extractor(narrow) as first:
        tally = service_on(_DyingWhen2(store, sleep_over_it), first, backend).sweep()
    assert tally.outcomes.get("published", 0) <= 1
    assert files_below(store, RESULT) == {"a": b"new", "b": b"new"}
    document = manifest_of(store, RESULT)
    assert document is not None
    assert document["source"]["etag"] == store.head(KEY).etag.strip('"')


class _DyingWhen2(_DyingWhen):
    """Looks at a call outside the lock, so that the look may take its time."""

    def step(self, name: str, call: Any) -> Any:
        self._when(name)
        return Mortal.step(self, name, call)


def test_retry_runs_a_refused_archive_again(store: S3, extractor: Extractor) -> None:
    backend = Recorder()
    data = zips.standard({"a": b"12345"})
    put(store, KEY, data)
    assert service_on(store, extractor, backend, max_total_bytes=3).sweep().outcomes == {
        "refused": 1
    }
    service = service_on(store, extractor, backend)
    assert service.sweep().started == 0  # not by itself
    outcome = service.ledger.outcome(Archive(store.bucket, KEY, store.head(KEY).etag, len(data)))
    assert outcome is not None
    service.ledger.reopen(outcome)
    assert service.sweep().outcomes == {"published": 1}
    assert [event["data"]["run"] for event in backend.events] == [1, 2]
    assert len({event["id"] for event in backend.events}) == 2


def test_orphaned_uploads_are_aborted(store: S3, extractor: Extractor) -> None:
    orphan = store.create_upload(RESULT + "a", "text/plain", {})
    other = store.create_upload("other/result/a", "text/plain", {})
    put(store, KEY, zips.standard({"a": b"1"}))
    service_on(store, extractor).sweep()
    left = {upload.id for upload in store.list_uploads("")}
    assert orphan not in left
    assert other in left


def test_heartbeat_keeps_a_long_job(
    s3_server: S3Server,
    store: S3,
    bucket: str,
    extractor: Extractor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Longer than its lease, with a rival that looks all the time: still one worker."""
    put(store, KEY, zips.standard({"a": b"1"}))
    entered, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> bool:
        if name.startswith("read ") and not entered.is_set():
            entered.set()
            assert go_on.wait(SECONDS)
        return False

    beats: queue.Queue[float] = queue.Queue()
    beat = threading.Event()

    def wait(self: Heartbeat, seconds: float) -> bool:
        """Beats when the test says so; whether the heartbeat ends."""
        beats.put(seconds)
        until(lambda: beat.is_set() or self.stopped.is_set(), "a beat or the end")
        beat.clear()
        return self.stopped.is_set()

    monkeypatch.setattr(Heartbeat, "wait", wait)
    service = service_on(_DyingWhen2(store, hold), extractor, lease_seconds=60)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(service.sweep()))
    thread.start()
    assert entered.wait(SECONDS)
    (claim,) = (entry.key for entry in store.entries(".slipway/unzip/open/"))
    file = s3_server.folder / bucket / claim
    rival = service_on(store, extractor)
    for _ in range(3):  # each time the lease would have ended but for the beat
        beats.get(timeout=SECONDS)
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 100))
        assert store.get(claim).age > 60
        beat.set()
        until(lambda: store.get(claim).age < 60, "a renewed claim")
        assert rival.sweep().outcomes == {}
    go_on.set()
    thread.join()
    assert results[0].outcomes == {"published": 1}


def test_a_lease_is_lost_by_our_own_clock(store: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(store, "s/", owner="me", lease_seconds=60)
    lease = ledger.claim(Archive(store.bucket, KEY, '"e"', 1))
    assert lease is not None
    lease.check()
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 59)
    monkeypatch.setattr("unzip.ledger.lease.time", later)
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_taken_lease_cannot_be_renewed(store: S3) -> None:
    archive = Archive(store.bucket, KEY, '"e"', 1)
    first = Ledger(store, "s/", owner="a", lease_seconds=60).claim(archive)
    late: Any = Later(store, 100)
    second = Ledger(late, "s/", owner="b", lease_seconds=60).claim(archive)
    assert first is not None
    assert second is not None
    assert second.claim.token == first.claim.token + 1
    with pytest.raises(LeaseLost):
        first.renew()
    with pytest.raises(LeaseLost):
        first.check()
    second.renew()


def test_objects_carry_their_source(store: S3, extractor: Extractor) -> None:
    etag = put(store, KEY, zips.standard({"a": b"1"}))
    service_on(store, extractor).sweep()
    assert store.head(RESULT + "a").metadata == {SOURCE_TAG: etag.strip('"')}


def test_conditional_put(store: S3) -> None:
    with pytest.raises(Missing):
        store.head("x")
    store.put("x", b"1", "text/plain", {}, Absent())
    assert settings_for(store.bucket).bucket == store.bucket
