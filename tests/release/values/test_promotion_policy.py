"""The rules of promotion."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import pytest

from release.errors import BadValuesError
from release.values import promotion_policy


@dataclass
class Files:
    """A snapshot with the rules, of two environments."""

    text: str
    commit: str = "0" * 40
    contents: dict[str, bytes] = field(
        default_factory=lambda: {
            path: b"there"
            for name in ("stage", "prod")
            for path in (f"values/{name}/proxy.yaml", f"argocd/environments/{name}.yaml")
        }
    )

    def read(self, path: str) -> bytes | None:
        return self.text.encode() if path == promotion_policy.PATH else self.contents.get(path)

    def files(self, folder: str) -> list[str]:
        return [promotion_policy.PATH, *self.contents]


def rules(windows: str) -> promotion_policy.Rules:
    return promotion_policy.read(Files(f"prod: {{windows: [{windows}]}}\n"), "prod")


SEOUL = '{days: [mon, tue, wed, thu], from: "09:00", to: "16:00", timeZone: Asia/Seoul}'
NIGHT = '{days: [fri], from: "22:00", to: "02:00", timeZone: Europe/Berlin}'


@pytest.mark.parametrize(
    ("window", "time", "allowed"),
    [
        (SEOUL, "2026-11-19T00:00:00+00:00", True),  # Thursday, 09:00 in Seoul
        (SEOUL, "2026-11-18T23:59:59+00:00", False),
        (SEOUL, "2026-11-19T07:00:00+00:00", False),  # 16:00
        (SEOUL, "2026-11-20T03:00:00+00:00", False),  # Friday
        (SEOUL, "2026-11-16T06:59:59+00:00", True),  # Monday, 15:59:59
        (NIGHT, "2026-11-20T21:00:00+00:00", True),  # Friday, 22:00 in Berlin
        (NIGHT, "2026-11-21T00:59:59+00:00", True),  # Saturday, 01:59:59
        (NIGHT, "2026-11-21T01:00:00+00:00", False),
        (NIGHT, "2026-11-20T00:30:00+00:00", False),  # the night before
        (NIGHT, "2026-07-10T20:00:00+00:00", True),  # summer time
        ("{days: [sat]}", "2026-11-21T23:59:59+00:00", True),
        ("{days: [sat]}", "2026-11-22T00:00:00+00:00", False),
    ],
)
def test_windows_are_read_in_their_time_zone(window: str, time: str, allowed: bool) -> None:
    assert rules(window).open(datetime.fromisoformat(time)) is allowed


def test_without_rules_promotion_is_always_allowed() -> None:
    assert promotion_policy.read(Files("prod:\n"), "prod").open(
        datetime.fromisoformat("2026-11-21")
    )
    assert promotion_policy.read(Files(""), "stage").windows == ()


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ("stage: {soka: 3m}\n", "stage.soka"),
        ("stage: {soak: soon}\n", "stage.soak"),
        ("stage: {windows: [{timeZone: Mars}]}\n", "stage.windows.0.timeZone"),
        ("stage: {windows: [{days: [monday]}]}\n", "stage.windows.0.days"),
        ("stage: {windows: [{from: 900}]}\n", "stage.windows.0.from"),
    ],
)
def test_misspelt_rules_are_refused_by_their_key(rules: str, key: str) -> None:
    with pytest.raises(BadValuesError) as caught:
        promotion_policy.read(Files(rules), "stage")
    assert key in str(caught.value)


def test_rules_for_an_environment_that_nobody_deploys_are_refused() -> None:
    """Found: a misspelt environment had no soak time and no windows, and nobody was told."""
    files = Files("stage: {}\n\nprdo:\n  soak: 30m\n")
    with pytest.raises(BadValuesError) as caught:
        promotion_policy.read(files, "prod")
    assert "values/promotion.yaml:3: prdo" in caught.value.message
    assert caught.value.fix == "did you mean 'prod'?"


def test_everything_wrong_with_the_rules_is_told_with_its_line() -> None:
    text = "stage:\n  soka: 3m\n  from: [prdo]\nprod:\n  soak: soon\n  from: [stge]\nprd: {}\n"
    found = {(problem.line, problem.key) for problem in promotion_policy.problems(Files(text))}
    assert found == {(7, "prd"), (2, "stage.soka"), (5, "prod.soak")}
    [problem] = promotion_policy.problems(Files("prod:\n  from: [stge]\n"))
    assert (problem.line, problem.key, problem.fix) == (2, "prod.from", "did you mean 'stage'?")
    [problem] = promotion_policy.problems(Files("prod: [\n"))
    assert "is not YAML" in problem.message
    assert list(promotion_policy.problems(Files("prod: {from: [stage], soak: 3m}\n"))) == []
