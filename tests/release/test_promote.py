"""`release promote`."""

from __future__ import annotations

from tests.release.conftest import World, digest


def promote(world: World, *more: str, source: str = "dev", target: str = "stage") -> int:
    return world.run("promote", "--from", source, "--to", target, *more).code


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
