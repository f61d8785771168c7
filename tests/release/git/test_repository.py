"""Where the repository may be: a URL, a clone, a folder without a remote."""

from __future__ import annotations

from pathlib import Path

from tests.release.conftest import World, digest, reference


def image_set(world: World, repo: Path, revision: str) -> int:
    return world.run(
        "image", "set", "--env", "dev", "--image", reference("proxy", "1"), "--revision", revision,
        "--no-check-registry", repo=repo,
    ).code  # fmt: skip


def test_a_clone_pushes_to_its_origin_and_keeps_its_work_tree(world: World) -> None:
    revision = world.source()
    (world.clone / "values/dev/proxy.yaml").write_text("mine, uncommitted\n")
    before = world.git("status", "--porcelain")
    assert image_set(world, world.clone, revision) == 0
    assert digest("proxy1").encode() in world.file("values/dev/proxy.image.yaml")
    assert world.git("status", "--porcelain") == before


def test_without_a_remote_the_branch_and_the_work_tree_move_together(world: World) -> None:
    revision = world.source()
    world.git("remote", "remove", "origin")
    assert image_set(world, world.clone, revision) == 0
    assert digest("proxy1") in (world.clone / "values/dev/proxy.image.yaml").read_text()
    assert world.git("status", "--porcelain") == ""


def test_without_a_remote_a_file_can_go(world: World) -> None:
    """Found: the last hold could not be ended, for `git rm` refused after the branch had moved."""
    world.git("remote", "remove", "origin")
    for arguments in (("hold", "--env", "dev", "--reason", "x"), ("unhold", "--env", "dev")):
        answer = world.run(*arguments, repo=world.clone)
        assert answer.code == 0, answer.err
        assert world.git("status", "--porcelain") == ""
    assert not (world.clone / "values/dev/hold.yaml").exists()


def test_without_a_remote_uncommitted_changes_are_never_overwritten(world: World) -> None:
    revision = world.source()
    world.git("remote", "remove", "origin")
    target = world.clone / "values/dev/proxy.image.yaml"
    target.write_text(target.read_text() + "# mine\n")
    assert image_set(world, world.clone, revision) == 5
    assert target.read_text().endswith("# mine\n")


def test_a_remote_that_is_gone_is_named(world: World) -> None:
    answer = world.run(
        "rollback", "--env", "dev", "--json", "--manifest-repo", "git://127.0.0.1:9/none.git"
    )
    assert answer.code == 9
    answer = world.run("rollback", "--env", "dev", "--json", "--branch", "trunk")
    assert answer.code == 8
    assert "trunk" in answer.json["message"]


def test_a_folder_that_is_no_repository_is_refused(world: World) -> None:
    answer = world.run("rollback", "--env", "dev", "--json", "--manifest-repo", "")
    assert answer.code in (8, 9)


def test_an_identity_is_not_needed(world: World) -> None:
    revision = world.source()
    for name in [name for name in world.environment if "AUTHOR" in name or "COMMITTER" in name]:
        del world.environment[name]
    world.environment["EMAIL"] = ""
    assert image_set(world, world.remote, revision) == 0
