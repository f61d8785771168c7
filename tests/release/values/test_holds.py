"""release.values.holds: what a hold forbids, and until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from release.values.holds import EVERY, Hold, covering, read, write

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Files:
    """One hold file as a snapshot."""

    commit = "0" * 40

    def __init__(self, content: bytes | None) -> None:
        self.content = content

    def read(self, path: str) -> bytes | None:
        return self.content if path == "values/dev/hold.yaml" else None

    def files(self, folder: str) -> list[str]:
        return [f"{folder}/hold.yaml"]


def hold(*services: str, until: datetime | None = None) -> Hold:
    return Hold(services, "an incident", "ada", NOW - timedelta(days=1), until)


@pytest.mark.parametrize(
    ("until", "active"),
    [(None, True), (NOW + SECOND, True), (NOW, False), (NOW - SECOND, False)],
)
def test_a_hold_ends_at_the_second_that_it_names(until: datetime | None, active: bool) -> None:
    assert hold("proxy", until=until).active(NOW) is active
    assert hold("proxy", until=until).covers("proxy", NOW) is active


def test_it_covers_its_releases_or_all() -> None:
    assert hold(EVERY).covers("proxy", NOW)
    assert hold("proxy", "unzip").covers("unzip", NOW)
    assert not hold("proxy").covers("worker", NOW)


def test_an_expired_hold_before_a_valid_one_hides_nothing() -> None:
    ended, valid = hold(EVERY, until=NOW), hold("proxy")
    assert covering([ended, valid], "proxy", NOW) is valid
    assert covering([ended], "proxy", NOW) is None


def test_what_is_written_is_read_back_in_utc() -> None:
    seoul = timezone(timedelta(hours=9))
    made = hold("proxy", until=datetime(2026, 11, 29, 9, 0, tzinfo=seoul))
    content = write([made])
    assert content is not None
    assert b"2026-11-29T00:00:00Z" in content
    assert read(Files(content), "dev") == [made]
    assert write([]) is None
    assert read(Files(None), "dev") == []
