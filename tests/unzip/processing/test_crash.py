"""Killed at every call to S3, before it or right after it, then run again by somebody else.

Each scenario counts its calls once, then dies at each of them in a bucket of its own. Afterwards:
nothing lost, nothing announced twice, the same manifest, nothing left lying about.

``SLIPWAY_CRASH_POINTS`` says how many of the points are tried: a number per scenario (default 2),
or ``all`` (over a thousand, some minutes; ``-rP`` shows how many).
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.conftest import session
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
from unzip.extract.options import Options
from unzip.extract.source import MANIFEST
from unzip.ledger.records import Archive, Outcome
from unzip.s3.client import S3
from unzip.zip.headers import Buffer

POINTS = os.environ.get("SLIPWAY_CRASH_POINTS", "2")
KEY, RESULT = "kim/result.zip", "kim/result/"


@dataclass(frozen=True)
class Scenario:
    """What lies in the bucket, and what must come of it. ``before`` was extracted earlier,
    and then ``between``.

    ``retried``: somebody asked for it again. ``replacement`` is uploaded while it is read.
    """

    data: bytes
    files: dict[str, bytes]
    before: bytes | None = None
    between: bytes | None = None
    refused: bool = False
    retried: bool = False
    replacement: bytes | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    always: str = ""
    """What calls have in their names that are tried however few points are."""


_many = {f"d{n % 3}/{n:02}.txt": f"{n}\n".encode() * n for n in range(110)}
_first = {"a": b"1", "gone/b": b"2", "c": b"3"}
_leftovers = {f"gone/{n}": b"2" for n in range(30)}
_large = {"big.txt": b"line of text\n" * 480_000, "a": b"1"}
_stored = zips.noise(6 << 20)
# A control character in a link's target is six bytes of JSON: 250 of them make two parts.
_manifest_in_parts = zips.build(
    zips.A,
    *[
        zips.Entry(f"link-{n}".encode(), b"\1" * 4000, mode=stat.S_IFLNK | 0o777)
        for n in range(250)
    ],
)
SCENARIOS = {
    "one file": Scenario(zips.standard({"a.txt": b"1"}), {"a.txt": b"1"}),
    "empty": Scenario(zips.build(), {}),
    "many files with checkpoints": Scenario(
        zips.standard(_many), _many, settings={"checkpoint_members": 10}
    ),
    "replaces an older version": Scenario(
        zips.standard({"a": b"one", "d/e": b"4"}),
        {"a": b"one", "d/e": b"4"},
        zips.standard(_first | _leftovers),
    ),
    "multipart": Scenario(zips.standard(_large), _large),
    "stored, copied by S3": Scenario(
        zips.build(zips.Entry(b"b.bin", _stored, method=0), zips.A),
        {"b.bin": _stored, "a.txt": b"alpha\n"},
    ),
    "manifest in parts": Scenario(
        _manifest_in_parts, {"a.txt": b"alpha\n"}, always=f"{RESULT}{MANIFEST}"
    ),
    "manifest in parts, over an older version": Scenario(
        _manifest_in_parts, {"a.txt": b"alpha\n"}, zips.standard(_first)
    ),
    "refused": Scenario(zips.BAD["wrong crc, bad one last"][0], {}, refused=True),
    "refused, over an older version": Scenario(
        zips.BAD["name climbs"][0], _first, zips.standard(_first), refused=True
    ),
    "retried": Scenario(zips.standard(_first), _first, before=zips.standard(_first), retried=True),
    "retried after a refusal": Scenario(
        zips.BAD["wrong crc"][0], {}, before=zips.BAD["wrong crc"][0], refused=True, retried=True
    ),
    "comes back after another version": Scenario(
        zips.standard(_first),
        _first,
        before=zips.standard(_first),
        between=zips.standard({"a": b"one"}),
    ),
    "replaced while it is read": Scenario(
        zips.standard({"old": b"1", "a": b"2"}),
        _first,
        replacement=zips.standard(_first),
    ),
}


class MortalTarget(Recorder):
    """Somebody who is told by a process that may die while telling."""

    def __init__(self, mortal: Mortal, told: Recorder) -> None:
        super().__init__(told.name, idempotent=told.idempotent)
        self._mortal = mortal
        self._told = told

    def send(self, event: dict[str, Any]) -> None:
        self._mortal.step(f"tell {self.name}", lambda: self._told.send(event))


class Replacing:
    """Somebody uploads another archive when the second range is read."""

    def __init__(self, store: S3, replacement: bytes) -> None:
        self._store = store
        self._replacement = replacement
        self._reads = 0

    def read(self, key: str, start: int, end: int, etag: str) -> Buffer:
        self._reads += 1
        if self._reads == 2:
            put(self._store, key, self._replacement)
        return self._store.read(key, start, end, etag)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@dataclass
class Stage:
    """One bucket with a scenario in it, and everybody who is told of it."""

    store: S3
    backend: Recorder = field(default_factory=Recorder)
    slack: Recorder = field(default_factory=lambda: Recorder("slack", idempotent=False))

    def sweep(self, scenario: Scenario, extractor: Extractor, mortal: Mortal) -> None:
        service = service_on(
            mortal,
            extractor,
            MortalTarget(mortal, self.backend),
            MortalTarget(mortal, self.slack),
            **scenario.settings,
        )
        service.sweep()


@pytest.fixture(scope="module")
def crash_extractor() -> Iterator[Extractor]:
    # Copying is switched on by hand: its probe would be calls before the first interesting one.
    options = Options(readers=2, writers=4, part_bytes=5 << 20, copies_rightly=lambda: True)
    with Extractor(options) as extractor:
        yield extractor


def _stage(server: S3Server, scenario: Scenario, extractor: Extractor, name: str) -> Stage:
    (server.folder / name).mkdir()
    store = S3(name, session=session(), endpoint=server.url, concurrency=8)
    stage = Stage(store)
    for earlier in (scenario.before, scenario.between):
        if earlier is None:
            continue
        put(store, KEY, earlier)
        stage.sweep(scenario, extractor, Mortal(store))
        stage.backend.events.clear()
        stage.slack.events.clear()
    put(store, KEY, scenario.data)
    if scenario.retried:
        ledger = service_on(store, extractor).ledger
        head = store.head(KEY)
        outcome = ledger.outcome(Archive(name, KEY, head.etag, head.size))
        assert outcome is not None
        ledger.reopen(outcome)
    return stage


def _mortal(stage: Stage, scenario: Scenario, at: int = 0, *, before: bool = True) -> Mortal:
    store: Any = stage.store
    if scenario.replacement is not None:
        store = Replacing(store, scenario.replacement)
    return Mortal(store, at, before=before)


def _check_in_between(stage: Stage, scenario: Scenario) -> None:
    """At the moment of death: what a manifest announces is there, and nothing of a bad archive."""
    document = manifest_of(stage.store, RESULT)
    if document is not None:
        there = {path: len(body) for path, body in files_below(stage.store, RESULT).items()}
        for row in document["members"]:
            assert there.get(row["path"]) == row["size"]
    if scenario.refused and scenario.before is None:
        assert files_below(stage.store, RESULT) == {}


def _check_after(stage: Stage, scenario: Scenario, manifest: Any, killed_at: str) -> None:
    assert files_below(stage.store, RESULT) == scenario.files
    assert manifest_of(stage.store, RESULT) == manifest
    ids = {event["id"] for event in stage.backend.events}
    assert len(ids) == 1  # by its idempotency key, the backend acts once
    repeated = len(stage.backend.events) - 1
    assert repeated <= (2 if _is_telling(killed_at) else 0)
    assert len(stage.slack.events) <= 1
    if not _is_telling(killed_at):
        assert len(stage.slack.events) == 1
    assert list(stage.store.list_uploads("")) == []
    left = [entry.key.split("/")[2] for entry in stage.store.entries(".slipway/")]
    assert left == ["closed"]


def _is_telling(call: str) -> bool:
    """Whether the process died between telling somebody and writing down that it did."""
    return "tell " in call or "/outbox/" in call


def _points(calls: list[str], seed: str, always: str) -> list[tuple[int, bool]]:
    every = [(at, before) for at in range(1, len(calls) + 1) for before in (True, False)]
    if POINTS == "all":
        return every
    some = random.Random(seed).sample(every, min(int(POINTS), len(every)))
    wanted = [(at, before) for at, before in every if always and always in calls[at - 1]]
    return sorted({*some, *wanted})


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_any_call(
    s3_server: S3Server,
    crash_extractor: Extractor,
    name: str,
) -> None:
    scenario = SCENARIOS[name]
    prefix = f"crash-{list(SCENARIOS).index(name)}"
    whole = _stage(s3_server, scenario, crash_extractor, f"{prefix}-whole")
    mortal = _mortal(whole, scenario)
    whole.sweep(scenario, crash_extractor, mortal)
    manifest = manifest_of(whole.store, RESULT)
    _check_after(whole, scenario, manifest, "")
    points = _points(mortal.calls, name, scenario.always)
    deaths = len(points)
    assert deaths >= (2 * len(mortal.calls) if POINTS == "all" else 1)
    for at, before in points:
        stage = _stage(s3_server, scenario, crash_extractor, f"{prefix}-{at}-{before}".lower())
        expected = dict(manifest) if manifest is not None else None
        if expected is not None:
            expected["source"] = {**expected["source"], "bucket": stage.store.bucket}
        dying = _mortal(stage, scenario, at, before=before)
        killed_at = ""
        try:
            stage.sweep(scenario, crash_extractor, dying)
        except Killed:
            killed_at = dying.calls[at - 1]
        _check_in_between(stage, scenario)
        if POINTS == "all" and at % 3 == 0:
            # The one that takes over dies, too, wherever chance wants it.
            taking_over: Any = Later(stage.store, 3600)
            second = Mortal(taking_over, random.Random(at).randrange(1, 40))
            with suppress(Killed):
                stage.sweep(scenario, crash_extractor, second)
            killed_at += f" {second.calls[-1]}" if second.dead else ""
            deaths += second.dead
            _check_in_between(stage, scenario)
        if scenario.replacement is not None:
            put(stage.store, KEY, scenario.replacement)  # in any case, sooner or later
        for hours in range(2, 5):  # the next runs of the CronJob, long after
            late: Any = Later(stage.store, hours * 3600)
            stage.sweep(scenario, crash_extractor, Mortal(late))
        try:
            _check_after(stage, scenario, expected, killed_at)
        except AssertionError as error:
            where = f"killed {'before' if before else 'after'} call {at}: {killed_at}"
            raise AssertionError(f"{name}, {where}: {error}") from error
    print(f"{name}: {deaths} kill points")


def test_there_are_a_thousand_points(s3_server: S3Server, crash_extractor: Extractor) -> None:
    """Every call of every scenario, before and after it: what ``all`` stands for."""
    calls = 0
    for number, scenario in enumerate(SCENARIOS.values()):
        stage = _stage(s3_server, scenario, crash_extractor, f"count-{number}")
        mortal = _mortal(stage, scenario)
        stage.sweep(scenario, crash_extractor, mortal)
        calls += len(mortal.calls)
    assert 2 * calls >= 1000


def test_outcome_survives_its_own_json() -> None:
    from unzip.ledger.records import State

    outcome = Outcome(Archive("b", KEY, '"e"', 1), State.REFUSED, reason="x", seconds={"a": 1.5})
    assert Outcome.from_json(outcome.to_json()) == outcome
