"""`release history`, `metrics` and `weights`."""

from __future__ import annotations

import pytest

from release.records.history import Deployment, metrics
from tests.release.conftest import World, digest, seen_healthy


def test_the_log_tells_what_when_who_and_the_verdict(world: World) -> None:
    first, second = world.source(), None
    world.deploy("1", first)
    seen_healthy(world, "dev")
    second = world.source()
    world.deploy("2", second)
    world.run("rollback", "--env", "dev", "--reason", "slow answers")
    answer = world.run("history", "--env", "dev", "--json")
    newest, middle, oldest, *_ = answer.json["deployments"]
    assert [d["operation"] for d in (newest, middle, oldest)] == [
        "rollback",
        "image set",
        "image set",
    ]
    assert newest["reason"] == "slow answers"
    assert newest["replaces"] == middle["commit"]
    assert newest["restores"] == oldest["commit"]
    assert oldest["verdict"] == "deployed"
    assert oldest["revisions"] == [first]
    assert digest("proxy2") in middle["images"][0]
    table = world.run("history", "--env", "dev")
    assert table.code == 0
    assert "slow answers" in table.out


def test_a_persons_note_is_no_verdict(world: World) -> None:
    """Found: a line of a note that is just a number was a traceback."""
    world.deploy("1", world.source())
    seen_healthy(world, "dev")
    for text in ("1", "[]", '{"at": 1}', "looks fine"):
        world.git("notes", "--ref=verdicts", "append", "-m", text, "main", cwd=world.remote)
    answer = world.run("history", "--env", "dev", "--json")
    assert answer.code == 0
    assert answer.json["deployments"][0]["verdict"] == "deployed"


def deployment(commit: str, when: int, **more: object) -> Deployment:
    values: dict[str, object] = {
        "environment": "dev", "commit": commit, "when": when, "by": "ada",
        "operation": "image set", "services": "proxy", "revisions": (), "images": (),
        "verdict": "deployed", "verdict_at": when, "restores": "", "replaces": "", "reason": "",
        **more,
    }  # fmt: skip
    return Deployment(**values)  # type: ignore[arg-type]


def test_the_four_figures() -> None:
    entries = [
        deployment("e", 5000, operation="rollback", replaces="d", verdict_at=5030),
        deployment("d", 4000, verdict_at=4030),
        deployment("c", 3600, verdict_at=3660),
        deployment("b", 3000, verdict="failed", verdict_at=3300),
        deployment("a", 1000, verdict_at=1100),
        deployment("z", -9_000_000),
        deployment("y", 4500, operation="values"),
    ]
    times = {"a": [500, 700], "c": [3000], "d": [3900]}
    figures = metrics("dev", entries, times, now=6000.0, days=1.0)
    assert figures.deployments == 5
    assert figures.per_day == 5
    assert figures.lead_seconds == pytest.approx((400 + 600) / 2)  # 130, 400, 600, 660
    assert figures.failure_rate == pytest.approx(2 / 4)  # b failed, d was rolled back
    assert figures.restore_seconds == pytest.approx((660 + 1030) / 2)


def test_no_deployments_are_no_figures() -> None:
    figures = metrics("dev", [], {}, now=0.0, days=30)
    assert (figures.deployments, figures.lead_seconds) == (0, None)
    assert (figures.failure_rate, figures.restore_seconds) == (None, None)


def test_metrics_run_on_the_real_log(world: World) -> None:
    world.deploy("1", world.source())
    world.deploy("2", world.source())
    [figures] = world.run("metrics", "--env", "dev", "--json").json["environments"]
    assert figures["deployments"] == 2
    assert figures["lead_seconds"] is not None
    assert world.run("metrics").code == 0


ROUTING = """\
hosts: [dev.example.org]   # ours
services:
  inference:
    # The canary.
    split: {inference: 95, inference-challenger: 5}
"""


def weights(world: World, *more: str) -> int:
    return world.run(
        "weights", "--env", "dev", "--service", "inference", "--variant",
        "inference-challenger", *more,
    ).code  # fmt: skip


def routing(world: World) -> str:
    return world.file("values/dev/routing.yaml").decode()


def test_a_canary_takes_its_steps_and_can_be_aborted(world: World) -> None:
    world.push({"values/dev/routing.yaml": ROUTING})
    for step in (25, 50, 100):
        assert weights(world) == 0
        wanted = f"{{inference: {100 - step}, inference-challenger: {step}}}"
        assert routing(world) == ROUTING.replace("{inference: 95, inference-challenger: 5}", wanted)
    head = world.head()
    assert weights(world) == 0  # there is no further step
    assert world.head() == head
    world.run("hold", "--env", "dev", "--reason", "audit")
    assert weights(world, "--weight", "50") == 4
    assert weights(world, "--abort") == 0  # the way back is always open
    assert "{inference: 100, inference-challenger: 0}" in routing(world)


def test_a_split_that_is_not_there_is_refused(world: World) -> None:
    assert weights(world) == 8
    world.push({"values/dev/routing.yaml": "services: {inference: {}}\n"})
    assert weights(world) == 1
