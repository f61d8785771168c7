"""`release promote`."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.release.conftest import World, digest, seen_healthy


def promote(world: World, *more: str, source: str = "dev", target: str = "stage") -> int:
    return world.run("promote", "--from", source, "--to", target, "--no-verify", *more).code


@pytest.fixture(autouse=True)
def everything_deployed_is_healthy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each deployment gets its verdict at once, as `release verify` would record it."""
    deploy = World.deploy

    def deploy_and_verify(self: World, *arguments: str, env: str = "dev") -> object:
        answer = deploy(self, *arguments, env=env)
        seen_healthy(self, env)
        return answer

    monkeypatch.setattr(World, "deploy", deploy_and_verify)


def test_it_copies_every_deployed_image_and_model_by_digest(world: World) -> None:
    revision = world.source()
    world.deploy("1", revision, "proxy", "inference")
    assert promote(world) == 0
    for release in ("proxy", "worker", "inference"):
        path = f"values/{{}}/{release}.image.yaml"
        assert world.file(path.format("stage")) == world.file(path.format("dev"))
    assert b'digest: ""' in world.file("values/stage/unzip.image.yaml")
    head = world.head()
    assert promote(world) == 0
    assert world.head() == head


def test_only_the_named_services_go(world: World) -> None:
    world.deploy("1", world.source(), "proxy", "inference")
    assert promote(world, "--service", "inference") == 0
    assert b'digest: ""' in world.file("values/stage/proxy.image.yaml")
    assert digest("inference1") in world.file("values/stage/inference.image.yaml").decode()
    assert promote(world, "--service", "nope") == 8


def test_an_expected_commit_that_is_past_is_refused(world: World) -> None:
    world.deploy("1", world.source())
    seen = world.head()
    world.source()  # commits elsewhere do not matter
    assert promote(world, "--expect", seen, "--dry-run") == 0
    world.deploy("2", world.source())
    assert promote(world, "--expect", seen) == 5
    assert promote(world, "--expect", "f" * 40) == 8


def test_it_never_goes_back(world: World) -> None:
    older, newer = world.source(), world.source()
    world.deploy("2", newer, env="stage")
    world.deploy("1", older)
    assert promote(world) == 3


def test_a_hold_on_the_target_refuses_all_of_it(world: World) -> None:
    world.deploy("1", world.source(), "proxy", "unzip")
    world.run("hold", "--env", "stage", "--service", "unzip", "--reason", "audit")
    head = world.head()
    assert promote(world) == 4
    assert world.head() == head
    assert promote(world, "--service", "proxy") == 0
    world.run("unhold", "--env", "stage")
    assert promote(world) == 0


def test_an_environment_nobody_deploys_is_refused(world: World) -> None:
    assert promote(world, target="qa") == 8
    assert promote(world, source="qa") == 8


RULES = """\
stage:
  soak: 30m
prod:
  from: [stage]
  windows:
    - {days: [mon, tue, wed, thu], from: "09:00", to: "16:00", timeZone: Asia/Seoul}
"""


def at(monkeypatch: pytest.MonkeyPatch, time: str) -> None:
    for module in ("changes.promote", "verdict"):
        monkeypatch.setattr(f"release.commands.{module}.now", lambda: datetime.fromisoformat(time))


def test_without_a_verdict_nothing_is_promoted(world: World) -> None:
    world.deploy("1", world.source())
    world.push({"values/dev/proxy.image.yaml": world.file("values/dev/unzip.image.yaml").decode()})
    answer = world.run("promote", "--from", "dev", "--to", "stage", "--no-verify", "--json")
    assert answer.code == 6
    assert "release verify --env dev" in answer.json["fix"]


def test_a_failed_verdict_after_a_good_one_counts(world: World) -> None:
    world.deploy("1", world.source())
    seen_healthy(world, "dev", verdict="failed")
    assert promote(world) == 6
    seen_healthy(world, "dev")
    assert promote(world) == 0


def test_soak_time_counts_from_the_first_good_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.push({"values/promotion.yaml": RULES})
    world.deploy("1", world.source())
    seen_healthy(world, "dev", when="2026-11-20T10:00:00+00:00", past=True)
    seen_healthy(world, "dev", when="2026-11-20T10:25:00+00:00")
    at(monkeypatch, "2026-11-20T10:29:59+00:00")
    assert promote(world) == 4
    at(monkeypatch, "2026-11-20T10:30:00+00:00")
    assert promote(world) == 0


def test_a_closed_window_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.push({"values/promotion.yaml": RULES})
    world.deploy("1", world.source(), env="stage")
    at(monkeypatch, "2026-11-18T23:59:59+00:00")
    assert promote(world, source="stage", target="prod") == 4
    at(monkeypatch, "2026-11-19T00:00:00+00:00")
    assert promote(world, source="stage", target="prod") == 0


def test_rules_name_where_promotions_come_from(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.push({"values/promotion.yaml": RULES})
    world.deploy("1", world.source())
    at(monkeypatch, "2026-11-19T01:00:00+00:00")
    assert promote(world, target="prod") == 4


def test_an_override_is_on_the_record(world: World) -> None:
    world.push({"values/promotion.yaml": RULES})
    world.deploy("1", world.source())
    assert promote(world, "--override", "CVE fix", target="prod") == 0
    trailers = world.git("log", "-1", "--format=%(trailers:only)", "main", cwd=world.remote)
    assert "Release-Reason: CVE fix" in trailers


def test_misspelt_rules_are_refused(world: World) -> None:
    world.push({"values/promotion.yaml": "stage: {soka: 3m}\n"})
    world.deploy("1", world.source())
    answer = world.run("promote", "--from", "dev", "--to", "stage", "--no-verify", "--json")
    assert answer.code == 1
    assert "stage.soka" in answer.json["message"]


def test_the_build_of_a_branch_stays_in_dev(world: World) -> None:
    world.source()
    world.git("checkout", "-q", "-b", "topic")
    world.git("commit", "-q", "--allow-empty", "-m", "A branch")
    branch = world.git("rev-parse", "HEAD")
    world.git("push", "-q", "origin", "topic")
    world.deploy("1", branch)
    answer = world.run(
        "promote",
        "--from",
        "dev",
        "--to",
        "stage",
        "--json",
        "--source",
        str(world.clone),
        "--no-verify",
    )
    assert answer.code == 3
    assert "not in the history of main" in answer.json["message"]
