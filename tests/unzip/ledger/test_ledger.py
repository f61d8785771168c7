"""What the ledger must not lose: versions that come back, faults that are nobody's, leftovers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

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
)
from unzip.extract.extractor import Extractor
from unzip.ledger.records import Archive, Outcome, State
from unzip.processing import timing
from unzip.processing.service import Service
from unzip.s3.client import S3
from unzip.s3.errors import Conflict, StoreError

KEY, RESULT = "kim/result.zip", "kim/result/"
CLOSED, OPEN = ".slipway/unzip/closed/", ".slipway/unzip/open/"


class Failing(Mortal):
    """A store that answers with an error wherever ``when`` says so; ``Killed`` ends it."""

    def __init__(self, store: Any, when: Callable[[str], Exception | type[Killed] | None]) -> None:
        super().__init__(store)
        self._when = when

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        fault = self._when(name)
        if fault is Killed:
            self.dead = True
        elif fault is not None:
            raise fault
        return super().step(name, call)


def _unreadable(name: str) -> Exception | None:
    return StoreError("no", code="500") if name.startswith("read ") else None


def _killed_at(beginning: str) -> Callable[[str], type[Killed] | None]:
    return lambda name: Killed if name.startswith(beginning) else None


def _archive(store: S3) -> Archive:
    head = store.head(KEY)
    return Archive(store.bucket, KEY, head.etag, head.size)


def _by_listing(service: Service) -> None:
    assert service.sweep().outcomes == {"published": 1}


def _by_event(service: Service) -> None:
    assert service.close_keys([KEY])


@pytest.mark.parametrize("take", [_by_listing, _by_event])
def test_a_version_that_comes_back_is_extracted_and_told_again(
    store: S3, extractor: Extractor, take: Callable[[Service], None]
) -> None:
    """Found: its old record was still there, so it was skipped and the other's files stayed."""
    backend = Recorder()
    service = service_on(store, extractor, backend)
    for letter in (b"A", b"B", b"A", b"B"):
        put(store, KEY, zips.standard({"a": letter}))
        take(service)
        assert files_below(store, RESULT) == {"a": letter}
        assert len(list(store.entries(CLOSED))) == 1
    assert [event["data"]["run"] for event in backend.events] == [1, 2, 3, 4]
    assert len({event["id"] for event in backend.events}) == 4


@pytest.mark.parametrize("take", [_by_listing, _by_event])
def test_a_version_comes_back_before_its_record_is_gone(
    store: S3, extractor: Extractor, take: Callable[[Service], None]
) -> None:
    """The worker of the other version died between its own record and the removal of this one."""
    first, second = zips.standard({"a": b"A"}), zips.standard({"a": b"B"})
    put(store, KEY, first)
    service = service_on(store, extractor)
    service.sweep()
    put(store, KEY, second)
    dying = Failing(store, _killed_at(f"delete {CLOSED}"))
    with pytest.raises(Killed):
        service_on(dying, extractor).sweep()
    assert len(list(store.entries(CLOSED))) == 2
    put(store, KEY, first)
    late: Any = Later(store, 100)
    take(service_on(late, extractor))
    assert files_below(store, RESULT) == {"a": b"A"}
    assert len(list(store.entries(CLOSED))) == 1


def test_deleted_in_mid_read_and_uploaded_again(store: S3, extractor: Extractor) -> None:
    """Found: the version that was gone was closed, and so was the same one when it came back."""
    data = zips.standard({"a": b"1"})
    put(store, KEY, data)
    backend = Recorder()
    service = service_on(store, extractor, backend)
    archive = _archive(store)
    store.delete(KEY)
    outcome = service.process(archive)
    assert outcome is not None
    assert outcome.state is State.SUPERSEDED
    assert list(store.entries(".slipway/")) == []
    put(store, KEY, data)
    assert service.sweep().outcomes == {"published": 1}
    assert [event["data"]["outcome"] for event in backend.events] == ["published"]


def test_faults_of_s3_are_no_attempts(store: S3, extractor: Extractor) -> None:
    """Found: each counted, so an outage had archives refused for ever."""
    put(store, KEY, zips.standard({"a": b"1"}))
    failing = service_on(Failing(store, _unreadable), extractor, max_attempts=2)
    for _ in range(4):
        assert failing.sweep().outcomes == {}
    backend = Recorder()
    service = service_on(store, extractor, backend, max_attempts=2)
    assert service.sweep().outcomes == {"published": 1}
    outcome = service.ledger.outcome(_archive(store))
    assert outcome is not None
    assert outcome.attempts == 1


def test_what_is_proved_is_published_however_long_it_takes(
    store: S3, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the deadline fired between the files, when the old manifest was gone already."""

    class Clock:
        offset = 0.0

        def monotonic(self) -> float:
            return time.monotonic() + self.offset

    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    put(store, KEY, zips.standard({"a": b"old", "b": b"old"}))
    service_on(store, extractor).sweep()
    put(store, KEY, zips.standard({"a": b"new", "b": b"new"}))

    def late(name: str) -> None:
        if name.startswith(f"delete {RESULT}"):
            clock.offset = 1e6

    assert service_on(Failing(store, late), extractor).sweep().outcomes == {"published": 1}
    assert clock.offset
    assert files_below(store, RESULT) == {"a": b"new", "b": b"new"}


@pytest.mark.parametrize("fault", ["claim cannot be read", "S3 fails"])
def test_one_archive_does_not_end_the_sweep(store: S3, extractor: Extractor, fault: str) -> None:
    """Found: what went wrong while claiming ended the run, and later keys starved."""
    put(store, "aaa/result.zip", zips.standard({"a": b"1"}))
    put(store, KEY, zips.standard({"a": b"1"}))
    head = store.head("aaa/result.zip")
    claim = service_on(store, extractor).ledger.open_key(
        Archive(store.bucket, "aaa/result.zip", head.etag, head.size)
    )
    if fault == "claim cannot be read":
        store.put(claim, b"{}", "application/json", {})
    failing = Failing(
        store, lambda name: StoreError("no") if fault == "S3 fails" and claim in name else None
    )
    tally = service_on(failing, extractor).sweep()
    assert tally.outcomes == {"published": 1}
    assert tally.busy >= 1
    assert files_below(store, RESULT) == {"a": b"1"}


def test_retry_leaves_what_is_published_until_it_is_published_anew(
    store: S3, extractor: Extractor
) -> None:
    """Found: the manifest went first, and nothing brought it back where reopening failed."""
    put(store, KEY, zips.standard({"a": b"1"}))
    service = service_on(store, extractor)
    service.sweep()
    store.put(RESULT + "a", b"damaged", "text/plain", {})
    archive = _archive(store)
    outcome = service.ledger.outcome(archive)
    assert outcome is not None
    assert service.ledger.reopen(outcome).run == 2
    assert service.ledger.reopen(outcome).run == 2
    assert manifest_of(store, RESULT) is not None
    assert not service.is_closed(KEY)
    assert service.close_keys([KEY])
    assert files_below(store, RESULT) == {"a": b"1"}
    assert manifest_of(store, RESULT) is not None
    assert service.sweep().started == 0


def test_retry_says_when_a_worker_has_the_archive(store: S3, extractor: Extractor) -> None:
    """Found: it was reported as open again, and nothing had been done."""
    put(store, KEY, zips.standard({"a": b"1"}))
    dying = service_on(Failing(store, _killed_at(f"delete {OPEN}")), extractor)
    with pytest.raises(Killed):
        dying.sweep()
    service = service_on(store, extractor)
    outcome = service.ledger.outcome(_archive(store))
    assert outcome is not None
    with pytest.raises(Conflict, match="under way"):
        service.ledger.reopen(outcome)
    late: Any = Later(store, 100)  # its worker is dead, and so is its claim
    assert service_on(late, extractor).ledger.reopen(outcome).run == 2
    assert service.sweep().outcomes == {"published": 1}


def test_the_announcement_is_that_of_the_end_it_came_to(store: S3, extractor: Extractor) -> None:
    """Found: one that died before closing left its verdict, and the backend heard that."""
    put(store, KEY, zips.standard({"a": b"1"}))
    backend = Recorder()
    dying = Failing(store, _killed_at(f"put {CLOSED}"))
    with pytest.raises(Killed):
        service_on(dying, extractor, backend, max_archive_seconds=1e-9).sweep()
    late: Any = Later(store, 100)
    service = service_on(late, extractor, backend)
    assert service.outbox.deliver() == 1
    assert backend.events == []
    assert service.sweep().outcomes == {"published": 1}
    assert [event["data"]["outcome"] for event in backend.events] == ["published"]


def test_a_message_outlives_the_record_of_its_version(store: S3, extractor: Extractor) -> None:
    """The backend was down while the archive was replaced: it hears of both, in their order."""
    backend = Recorder()
    for letter in (b"A", b"B"):
        put(store, KEY, zips.standard({"a": letter}))
        silent = Recorder()
        service = service_on(store, extractor, silent)
        service.process(_archive(store))
        (event,) = silent.events
        outcome = service.ledger.outcome(_archive(store))
        assert outcome is not None
        assert event["id"] == outcome.event_id
        service_on(store, extractor, backend).outbox.write(outcome)
    assert service_on(store, extractor, backend).outbox.deliver() == 0
    assert sorted(event["data"]["run"] for event in backend.events) == [1, 2]


def _dead_in_mid_upload(store: S3, extractor: Extractor, **settings: Any) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    with pytest.raises(Killed):
        service_on(Failing(store, _killed_at("read ")), extractor, **settings).sweep()
    store.create_upload(RESULT + "big", "text/plain", {})


def test_uploads_of_an_archive_that_failed_are_aborted(store: S3, extractor: Extractor) -> None:
    """Found: giving up came before the clean-up."""
    _dead_in_mid_upload(store, extractor)
    late: Any = Later(store, 100)
    assert service_on(late, extractor, max_attempts=1).sweep().outcomes == {"failed": 1}
    assert list(store.list_uploads("")) == []


def test_uploads_of_an_archive_that_is_gone_are_aborted(store: S3, extractor: Extractor) -> None:
    """Found: nobody ever came back to the claim of an archive that was deleted."""
    _dead_in_mid_upload(store, extractor)
    store.delete(KEY)
    tally = service_on(store, extractor).sweep()
    assert (tally.outcomes, tally.busy) == ({}, 1)  # its worker may be alive
    late: Any = Later(store, 100)
    assert service_on(late, extractor).sweep().outcomes == {"superseded": 1}
    assert list(store.list_uploads("")) == []
    assert list(store.entries(".slipway/")) == []


def test_nested_zips_stay_zips(store: S3, extractor: Extractor) -> None:
    """Found: an event of our own file, or the loss of its archive, had it extracted."""
    inner = zips.standard({"b": b"2"})
    put(store, KEY, zips.standard({"x/result.zip": inner, "a": b"1"}))
    backend = Recorder()
    service = service_on(store, extractor, backend)
    service.sweep()
    assert service.close_keys([KEY, RESULT + "x/result.zip"])
    put(store, RESULT + "mine/result.zip", inner)  # somebody's, where the listing never looks
    assert service.close_keys([RESULT + "mine/result.zip"])
    store.delete(RESULT + "mine/result.zip")
    store.delete(KEY)
    assert service.sweep().started == 0
    assert service.close_keys([RESULT + "x/result.zip"])
    assert files_below(store, RESULT) == {"x/result.zip": inner, "a": b"1"}
    assert len(backend.events) == 1


def test_an_archive_may_lie_in_a_folder_called_result(store: S3, extractor: Extractor) -> None:
    """Only what an archive became is left alone, and only by its own archive's folder."""
    for key in ("kim/result/result.zip", "eve/result.zip"):
        put(store, key, zips.standard({"a": b"1"}))
    service = service_on(store, extractor)
    assert service.sweep().outcomes == {"published": 2}
    assert files_below(store, "kim/result/result/") == {"a": b"1"}


def test_outcome_of_another_version_is_none_of_ours(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    service = service_on(store, extractor)
    service.sweep()
    archive = _archive(store)
    assert service.ledger.is_closed(archive)
    other = Archive(store.bucket, KEY, '"other"', 1)
    assert service.ledger.outcome(other) is None
    newer = Outcome(other, State.REFUSED, run=2)
    store.put(service.ledger.closed_key(other), newer.to_json(), "application/json", {})
    assert service.ledger.outcome(archive) is None
    assert service.ledger.outcome(other) == newer
