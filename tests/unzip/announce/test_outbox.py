"""Announcements: once, later if need be, and never at the archive's expense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.unzip import zips
from tests.unzip.support import Later, Recorder, put, service_on
from unzip.announce.outbox import Message, Outbox, Refusal, Result, event_of
from unzip.announce.targets import render
from unzip.extract.extractor import Extractor
from unzip.ledger.ledger import Ledger
from unzip.ledger.records import Archive, Outcome, State
from unzip.metrics import Metrics
from unzip.s3.client import S3
from unzip.settings import SLACK_FIELDS, UnzipSettings

KEY = "kim/result.zip"


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def _closed(store: S3) -> tuple[Ledger, Outcome]:
    ledger = Ledger(store, "s/", owner="me")
    lease = ledger.claim(Archive(store.bucket, KEY, '"e"', 1))
    assert lease is not None
    return ledger, ledger.close(lease, Outcome(lease.claim.archive, State.PUBLISHED, members=3))


def _outbox(ledger: Ledger, clock: Time, *targets: Recorder) -> Outbox:
    return Outbox(ledger, targets, metrics=Metrics(), clock=clock)


def _left(store: S3) -> list[Message]:
    return [Message.from_json(store.get(e.key).body) for e in store.entries("s/outbox/")]


def test_told_once_and_gone(store: S3) -> None:
    ledger, outcome = _closed(store)
    backend, slack, clock = Recorder(), Recorder("slack", idempotent=False), Time()
    outbox = _outbox(ledger, clock, backend, slack)
    outbox.write(outcome)
    outbox.write(outcome)
    assert outbox.deliver() == 0
    assert outbox.deliver() == 0
    assert len(backend.events) == len(slack.events) == 1
    assert backend.events[0]["data"]["members"] == 3
    assert _left(store) == []


def test_a_backend_that_is_down_for_an_hour_gets_it_once_later(store: S3) -> None:
    ledger, outcome = _closed(store)
    backend, slack, clock = Recorder(), Recorder("slack", idempotent=False), Time()
    outbox = _outbox(ledger, clock, backend, slack)
    outbox.write(outcome)
    backend.down = Refusal("answered 503")
    for _ in range(12):
        outbox.deliver()
        clock.now += 300
    assert len(slack.events) == 1
    (message,) = _left(store)
    assert message.targets["backend"].attempts >= 4
    backend.down = None
    clock.now += 900
    assert outbox.deliver() == 0
    assert len(backend.events) == len(slack.events) == 1


def test_retry_after_is_kept(store: S3) -> None:
    ledger, outcome = _closed(store)
    backend, clock = Recorder(), Time()
    outbox = _outbox(ledger, clock, backend)
    outbox.write(outcome)
    backend.down = Refusal("answered 429", after=1800)
    outbox.deliver()
    backend.down = None
    clock.now += 1799
    assert outbox.deliver() == 1
    assert backend.events == []
    clock.now += 2
    assert outbox.deliver() == 0


def test_one_that_is_down_is_not_asked_for_each_message(store: S3) -> None:
    clock, backend = Time(), Recorder()
    ledger = Ledger(store, "s/", owner="me")
    outbox = _outbox(ledger, clock, backend)
    asked = 0

    def refuse(event: dict[str, Any]) -> None:
        nonlocal asked
        asked += 1
        raise Refusal("connection refused")

    backend.send = refuse  # type: ignore[method-assign]
    for n in range(5):
        lease = ledger.claim(Archive(store.bucket, f"{n}/result.zip", '"e"', 1))
        assert lease is not None
        outcome = Outcome(lease.claim.archive, State.PUBLISHED)
        outbox.write(outcome)
        ledger.close(lease, outcome)
    assert outbox.deliver() == 5
    assert asked == 1


def test_given_up_in_the_end_and_kept_to_be_seen(store: S3) -> None:
    ledger, outcome = _closed(store)
    backend, clock = Recorder(), Time()
    outbox = _outbox(ledger, clock, backend)
    outbox.write(outcome)
    backend.down = Refusal("answered 400")
    outbox.deliver()
    clock.now += 8 * 86_400
    outbox.deliver()
    assert [m.targets["backend"].result for m in _left(store)] == [Result.GIVEN_UP]


def test_nothing_is_sent_before_the_archive_is_closed(store: S3) -> None:
    """Else a takeover, finding no message, would write and send it once more."""
    ledger = Ledger(store, "s/", owner="me")
    lease = ledger.claim(Archive(store.bucket, KEY, '"e"', 1))
    assert lease is not None
    backend = Recorder()
    outbox = _outbox(ledger, Time(), backend)
    outbox.write(Outcome(lease.claim.archive, State.PUBLISHED))
    assert outbox.deliver() == 1
    assert backend.events == []


@pytest.mark.parametrize(("idempotent", "sent"), [(True, 1), (False, 0)])
def test_died_while_telling(store: S3, idempotent: bool, sent: int) -> None:
    """Whoever knows our key is told again; whoever does not, is not."""
    ledger, outcome = _closed(store)
    target, clock = Recorder(idempotent=idempotent), Time()

    def die(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    dying = Recorder(idempotent=idempotent)
    dying.send = die  # type: ignore[method-assign]
    outbox = _outbox(ledger, clock, dying)
    outbox.write(outcome)
    with pytest.raises(KeyboardInterrupt):
        outbox.deliver()
    assert _outbox(ledger, clock, target).deliver() == 1  # perhaps it is still being told
    assert target.events == []
    late: Any = Later(store, 100)
    _outbox(Ledger(late, "s/", owner="b"), clock, target).deliver()
    assert len(target.events) == sent


def test_an_unknown_fate_is_not_repeated_to_slack(store: S3) -> None:
    ledger, outcome = _closed(store)
    slack, clock = Recorder("slack", idempotent=False), Time()
    outbox = _outbox(ledger, clock, slack)
    outbox.write(outcome)
    slack.down = Refusal("no answer: ReadTimeout", unknown=True)
    outbox.deliver()
    slack.down = None
    clock.now += 90_000
    assert outbox.deliver() == 0
    assert slack.events == []


def test_slack_being_down_never_fails_an_archive(store: S3, extractor: Extractor) -> None:
    put(store, KEY, zips.standard({"a": b"1"}))
    slack = Recorder("slack", idempotent=False)
    slack.down = Refusal("cannot be reached")
    tally = service_on(store, extractor, slack).sweep()
    assert tally.outcomes == {"published": 1}
    assert tally.undelivered == 1


def test_a_defect_in_telling_one_keeps_nothing_from_the_others(store: S3) -> None:
    """Found: a template with an unknown field ended the run, at every message anew."""
    ledger, outcome = _closed(store)
    slack, backend, clock = Recorder("slack", idempotent=False), Recorder(), Time()

    def break_down(event: dict[str, Any]) -> None:
        raise KeyError("colour")

    slack.send = break_down  # type: ignore[method-assign]
    outbox = _outbox(ledger, clock, slack, backend)
    outbox.write(outcome)
    store.put("s/outbox/aaa.json", b"{}", "application/json", {})  # no message at all
    assert outbox.deliver() == 2
    assert len(backend.events) == 1
    (message,) = (m for m in map(Message.from_json, _bodies(store)) if m.event)
    assert "colour" in message.targets["slack"].error


def _bodies(store: S3) -> list[bytes]:
    return [
        store.get(entry.key).body
        for entry in store.entries("s/outbox/")
        if not entry.key.endswith("aaa.json")
    ]


def test_a_template_that_names_what_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="there is no field 'colour'"):
        UnzipSettings(slack_template="{colour} {key}")
    event = event_of(Outcome(Archive("b", KEY, '"e"', 1), State.PUBLISHED))
    every = " ".join(f"{{{name}}}" for name in SLACK_FIELDS)
    assert KEY in render(every, event)
    assert set(event["data"]) <= set(SLACK_FIELDS)
