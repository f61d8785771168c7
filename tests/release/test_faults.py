"""What may happen at night: kills, races, refusals, silence. Nothing is lost, nothing half done.

`SLIPWAY_FAULTS=all` kills at every single step instead of at a sample of them.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from release.errors import ReleaseError
from release.git import repository
from release.git.credentials import git_environment
from release.git.program import Git
from release.git.repository import ManifestRepo
from tests.programs import require
from tests.release import forked
from tests.release.conftest import World, digest, reference, seen_healthy
from tests.release.records.test_history import ROUTING

EVERY_STEP = os.environ.get("SLIPWAY_FAULTS") == "all"
Attempt = Callable[..., tuple[int, bytes, str]]


def killed_at(world: World, step: int, after: bool, *arguments: str) -> bool:
    """Run `release` in a process that dies at its n-th git command; whether it died."""
    code = forked.exit_code(_dying, world, step, after, arguments)
    assert code in (0, 77), code
    return code == 77


def _dying(world: World, step: int, after: bool, arguments: tuple[str, ...]) -> int:
    original: Attempt = Git.attempt
    count = 0

    def dying(self: Git, *args: str, **more: Any) -> tuple[int, bytes, str]:
        nonlocal count
        count += 1
        if count == step and not after:
            os._exit(77)
        answer = original(self, *args, **more)
        if count == step:
            os._exit(77)
        return answer

    Git.attempt = dying  # type: ignore[method-assign]
    return world.run(*arguments).code


OPERATIONS: dict[str, tuple[str, ...]] = {
    "image set": (
        "image", "set", "--env", "dev", "--image", reference("proxy", "3"), "--revision",
        "REVISION", "--no-check-registry",
    ),
    "model set": (
        "model", "set", "--env", "dev", "--name", "digits", "--version", "2", "--uri",
        "s3://models/digits/2", "--sha256", "2" * 64,
    ),
    "promote": ("promote", "--from", "dev", "--to", "stage", "--no-verify"),
    "rollback": ("rollback", "--env", "dev", "--reason", "night"),
    "hold": ("hold", "--env", "prod", "--reason", "freeze"),
    "unhold": ("unhold", "--env", "prod"),
    "weights": (
        "weights", "--env", "dev", "--service", "inference", "--variant", "inference-challenger",
        "--weight", "25",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_any_step_a_rerun_finishes_it(
    world: World, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world.push({"values/dev/routing.yaml": ROUTING})
    for seed in ("1", "2"):
        world.deploy(seed, world.source())
        seen_healthy(world, "dev")
    world.run("hold", "--env", "prod", "--reason", "audit", "--owner", "bob")
    revision = world.source()
    arguments = [revision if word == "REVISION" else word for word in OPERATIONS[name]]
    before = world.head()
    begun = tmp_path_factory.mktemp("begun") / "remote.git"
    shutil.copytree(world.remote, begun)
    total = steps_of(world, arguments)
    wanted = tree_without_times(world, "main")
    assert world.head() != before
    steps = range(1, total + 1)
    # The last ones are where a commit is made and pushed.
    chosen = steps if EVERY_STEP else sorted({random.Random(name).choice(steps), total - 1})
    for step in chosen:
        for after in (False, True) if EVERY_STEP else (step % 2 == 0,):
            shutil.rmtree(world.remote)
            shutil.copytree(begun, world.remote)
            killed_at(world, step, after, *arguments)
            world.git("fsck", "--strict", "--no-dangling", cwd=world.remote)
            head = world.head()
            if head != before:  # not a bit of it, or all of it
                assert tree_without_times(world, head) == wanted
            answer = world.run(*arguments)
            assert answer.code == 0, (step, after, answer.out, answer.err)
            count = world.git("rev-list", "--count", f"{before}..main", cwd=world.remote)
            assert count == "1", (step, after)
            assert tree_without_times(world, "main") == wanted


@pytest.mark.parametrize("name", ["image set", "unhold"])
def test_killed_without_a_remote_a_rerun_finishes_it(world: World, name: str) -> None:
    """Found: between the branch and the work tree a kill left the inverse change for good."""
    world.run("hold", "--env", "prod", "--reason", "audit")
    revision = world.source()
    world.git("pull", "-q", "origin", "main")
    world.git("remote", "remove", "origin")
    arguments = [revision if word == "REVISION" else word for word in OPERATIONS[name]]
    arguments += ["--manifest-repo", str(world.clone)]
    before = world.git("rev-parse", "HEAD")
    total = steps_of(world, arguments)
    wanted = world.git("rev-parse", "HEAD^{tree}")
    steps = range(1, total + 1) if EVERY_STEP else range(total - 4, total + 1)
    for step in steps:
        for after in (False, True):
            world.git("reset", "-q", "--hard", before)
            killed_at(world, step, after, *arguments)
            answer = world.run(*arguments)
            assert answer.code == 0, (step, after, answer.out, answer.err)
            assert world.git("rev-parse", "HEAD^{tree}") == wanted, (step, after)
            assert world.git("rev-list", "--count", f"{before}..HEAD") == "1", (step, after)
            assert world.git("status", "--porcelain") == "", (step, after)
            assert world.git("for-each-ref", "refs/release") == ""


def tree_without_times(world: World, commit: str) -> list[str]:
    """A tree's files and blobs; a hold tells when it began, so only its presence counts."""
    listed = world.git("ls-tree", "-r", commit, cwd=world.remote).splitlines()
    return [line if "hold.yaml" not in line else line.split("\t")[1] for line in listed]


def steps_of(world: World, arguments: list[str]) -> int:
    """How many git commands an operation takes."""
    original: Attempt = Git.attempt
    count = 0

    def counting(self: Git, *args: str, **more: Any) -> tuple[int, bytes, str]:
        nonlocal count
        count += 1
        return original(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Git, "attempt", counting)
        assert world.run(*arguments).code == 0
    return count


def before_first_push(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something between a run's planning and its first push."""
    original = ManifestRepo.push
    done = False

    def push(self: ManifestRepo, parent: str, commit: str) -> None:
        nonlocal done
        if not done:
            done = True
            action()
        original(self, parent, commit)

    monkeypatch.setattr(ManifestRepo, "push", push)


def test_a_lost_race_is_planned_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before_first_push(monkeypatch, lambda: world.push({"README.md": "other\n"}))
    answer = world.deploy("1", world.head())
    assert answer.code == 0
    assert answer.json["attempts"] == 2
    assert world.exists("README.md")
    assert digest("proxy1").encode() in world.file("values/dev/proxy.image.yaml")


def test_a_newer_build_that_wins_the_race_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = world.source(), world.source()
    before_first_push(monkeypatch, lambda: world.deploy("2", newer))
    assert world.deploy("1", older).code == 3
    assert digest("proxy2").encode() in world.file("values/dev/proxy.image.yaml")


def test_a_hold_set_during_the_race_is_seen_at_the_push(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = world.source()
    before_first_push(
        monkeypatch, lambda: world.run("hold", "--env", "dev", "--reason", "incident")
    )
    assert world.deploy("1", revision).code == 4


def test_two_people_rolling_back_at_once_make_one_rollback(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in ("1", "2", "3"):
        world.deploy(seed, world.source())
    before = world.head()
    # (With the same reason in the same second they would even make the same commit.)
    before_first_push(
        monkeypatch, lambda: world.run("rollback", "--env", "dev", "--reason", "I saw it first")
    )
    answer = world.run("rollback", "--env", "dev", "--json")
    assert (answer.code, answer.json["changed"]) == (0, False)
    assert "rolled back already" in answer.json["notes"][0]
    assert world.git("rev-list", "--count", f"{before}..main", cwd=world.remote) == "1"
    assert digest("proxy2").encode() in world.file("values/dev/proxy.image.yaml")


def test_a_promotion_that_races_a_rollback_gives_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in ("1", "2"):
        world.deploy(seed, world.source(), env="stage")
    world.deploy("3", world.source())
    seen_healthy(world, "dev")
    before_first_push(monkeypatch, lambda: world.run("rollback", "--env", "stage"))
    assert world.run("promote", "--from", "dev", "--to", "stage", "--no-verify").code == 4
    assert digest("proxy1").encode() in world.file("values/stage/proxy.image.yaml")


def test_a_rollback_that_races_a_promotion_wins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in ("1", "2"):
        world.deploy(seed, world.source(), env="stage")
    world.deploy("3", world.source())
    seen_healthy(world, "dev")
    before_first_push(
        monkeypatch,
        lambda: world.run("promote", "--from", "dev", "--to", "stage", "--no-verify"),
    )
    assert world.run("rollback", "--env", "stage").code == 0
    assert digest("proxy1").encode() in world.file("values/stage/proxy.image.yaml")


def hook(world: World, name: str, script: str) -> Path:
    """A hook of the remote; it may count its runs in the file `runs`."""
    path = world.remote / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    runs = world.folder / "runs"
    path.write_text(f"#!/bin/sh\necho run >> {runs}\n{script}\n")
    path.chmod(0o755)
    runs.write_text("")
    return runs


@pytest.mark.parametrize(
    "words",
    [
        "cannot lock ref 'refs/heads/main': is at 1 but expected 2",
        "failed to update ref",
        "incorrect old value provided",
        "stale info",
        "Reference has already been updated",
        "Something no host has ever said",
    ],
)
def test_every_wording_of_a_lost_race_is_retried(world: World, words: str) -> None:
    """It is told by where the branch stands, not by what the remote says."""
    revision = world.source()
    once = world.folder / "once"
    # Somebody else's commit lands while ours is being received.
    runs = hook(
        world,
        "update",
        f"test -e {once} && exit 0; touch {once}\n"
        'tree=$(git rev-parse "$2^{tree}")\n'
        f"new=$(git commit-tree $tree -p $2 -m Other)\n"
        "git_dir=$(pwd)\n"
        "(unset GIT_QUARANTINE_PATH; git --git-dir=$git_dir update-ref refs/heads/main $new)\n"
        f'echo "{words}" >&2; exit 1',
    )
    answer = world.deploy("1", revision)
    assert answer.code == 0, answer.out
    assert answer.json["attempts"] == 2
    assert len(runs.read_text().split()) == 2
    subjects = world.git("log", "-2", "--format=%s", "main", cwd=world.remote).splitlines()
    assert subjects[1] == "Other"


@pytest.mark.parametrize(
    "words",
    [
        "GH006: Protected branch update failed for refs/heads/main.",
        "You are not allowed to push code to protected branches on this project.",
        "pre-receive hook declined",
    ],
)
def test_a_protected_branch_is_asked_once(world: World, words: str) -> None:
    runs = hook(world, "update", f'echo "{words}" >&2; exit 1')
    answer = world.deploy("1", world.source())
    assert answer.code == 5
    assert "--pull-request" in answer.json["fix"]
    assert len(runs.read_text().split()) == 1


def test_a_push_whose_answer_was_lost_is_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Attempt = Git.attempt

    def deaf(self: Git, *args: str, **more: Any) -> tuple[int, bytes, str]:
        answer = original(self, *args, **more)
        return (128, b"", "fatal: the remote end hung up") if args[0] == "push" else answer

    before = world.source()
    monkeypatch.setattr(Git, "attempt", deaf)
    assert world.deploy("1", before).code == 0
    assert world.git("rev-list", "--count", f"{before}..main", cwd=world.remote) == "1"


def test_a_remote_that_never_answers_ends_in_time(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/r.git"
        answer = world.run(
            "rollback", "--env", "dev", "--json", "--manifest-repo", url, "--git-timeout", "1"
        )
    assert answer.code == 9
    assert "did not finish in 1 seconds" in answer.json["message"]


def test_a_slow_remote_is_waited_for(world: World) -> None:
    """Others push while it takes its time; the race that this loses is run again."""
    revision = world.source()
    hook(world, "pre-receive", "sleep 1")
    deploying = world.spawn(
        "image", "set", "--env", "dev", "--image", reference("proxy", "1"), "--revision",
        revision, "--no-check-registry", "--git-timeout", "30",
    )  # fmt: skip
    other = world.deploy("1", revision, "unzip")
    _, err = deploying.communicate()
    assert (deploying.returncode, other.code) == (0, 0), err
    for image in ("proxy", "unzip"):
        assert digest(f"{image}1").encode() in world.file(f"values/dev/{image}.image.yaml")


def test_a_push_given_up_on_that_lands_after_all_is_not_doubled(world: World) -> None:
    revision = world.source()
    hook(world, "pre-receive", "sleep 4")
    arguments = (
        "image", "set", "--env", "dev", "--image", reference("proxy", "1"), "--revision",
        revision, "--no-check-registry", "--json",
    )  # fmt: skip
    assert world.run(*arguments, "--git-timeout", "2").code == 9
    (world.remote / "hooks/pre-receive").unlink()
    assert world.run(*arguments).code == 0
    assert world.git("rev-list", "--count", f"{revision}..main", cwd=world.remote) == "1"


def test_terminated_it_clears_away_its_key(world: World) -> None:
    """Found: SIGTERM left the deploy key in the scratch folder."""
    scratch = world.folder / "scratch"
    scratch.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        process = world.spawn(
            "rollback", "--env", "dev", "--reason", "night",
            MANIFEST_REPO=f"git://127.0.0.1:{silent.getsockname()[1]}/r.git",
            MANIFEST_DEPLOY_KEY="k", MANIFEST_KNOWN_HOSTS="h", TMPDIR=str(scratch),
        )  # fmt: skip
        connection, _ = silent.accept()
        with connection:
            assert list(scratch.glob("release-ssh-*/key"))
            process.terminate()
            process.communicate(timeout=90)
    assert process.returncode == 143
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("first", "second"), [("2030", "2001"), ("2001", "2030")])
def test_clocks_do_not_tell_which_build_is_newer(world: World, first: str, second: str) -> None:
    revisions = []
    for year in (first, second):
        world.environment["GIT_COMMITTER_DATE"] = f"{year}-01-01T00:00:00Z"
        revisions.append(world.source())
    older, newer = revisions
    assert world.deploy("2", newer).code == 0
    assert world.deploy("1", older).code == 3
    assert digest("proxy2").encode() in world.file("values/dev/proxy.image.yaml")


def test_a_verdict_from_a_clock_ahead_has_soaked_for_no_time(world: World) -> None:
    world.deploy("1", world.source())
    world.push({"values/promotion.yaml": "stage: {soak: 30m}\n"})
    seen_healthy(world, "dev", when="2099-01-01T00:00:00+00:00")
    answer = world.run("promote", "--from", "dev", "--to", "stage", "--no-verify", "--json")
    assert answer.code == 4
    assert "has run this for 0:00:00" in answer.json["message"]


def _deploys(world: World, image: str, revisions: Sequence[str]) -> int:
    codes = {world.deploy(f"{n}", revision, image).code for n, revision in enumerate(revisions)}
    return 0 if codes == {0} else 1


def test_many_writers_lose_nothing_and_double_nothing(world: World) -> None:
    """Three writers and a person, each pushing on; `bench/release` does it with ten."""
    bumps = 3
    revisions = [world.source() for _ in range(bumps)]
    start = world.head()
    images = ("inference", "proxy", "unzip")
    children = [forked.started(_deploys, world, image, revisions) for image in images]
    others = 0
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PERSON, str(world.remote)], check=False,
            env={**os.environ, **world.environment},
        )  # fmt: skip
        others += done.returncode == 0
    for child in children:
        child.join()
        assert child.exitcode == 0
    log = world.git("log", "--format=%s", f"{start}..main", cwd=world.remote).splitlines()
    ours = [subject for subject in log if subject.startswith("dev: Deploy")]
    assert len(ours) == bumps * len(images)
    assert len(set(ours)) == len(ours)
    assert len(log) == len(ours) + others
    for image in images:
        text = world.file(f"values/dev/{image}.image.yaml").decode()
        assert digest(f"{image}{bumps - 1}") in text


PERSON = """\
import subprocess, sys
def git(*a):
    done = subprocess.run(["git", *a], cwd=sys.argv[1], capture_output=True, text=True)
    return done.stdout.strip()
old = git("rev-parse", "main")
new = git("commit-tree", old + "^{tree}", "-p", old, "-m", "A person")
moved = subprocess.run(["git", "update-ref", "refs/heads/main", new, old], cwd=sys.argv[1])
sys.exit(moved.returncode)
"""


def test_two_runs_in_one_clone_do_not_disturb_each_other(world: World) -> None:
    revision = world.source()
    codes: list[int] = []

    def run(image: str) -> None:
        process = world.spawn(
            "image", "set", "--env", "dev", "--image", reference(image, "1"), "--revision",
            revision, "--no-check-registry", MANIFEST_REPO=str(world.clone),
        )  # fmt: skip
        process.communicate()
        codes.append(process.returncode)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("proxy", "unzip")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    for image in ("proxy", "unzip"):
        assert digest(f"{image}1").encode() in world.file(f"values/dev/{image}.image.yaml")


def test_commits_are_signed_when_asked(world: World) -> None:
    keygen = require("ssh-keygen")
    key = world.folder / "key"
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    config = {"gpg.format": "ssh", "user.signingkey": str(key)}
    settings = {"GIT_CONFIG_COUNT": str(len(config))}
    for index, (name, value) in enumerate(config.items()):
        settings |= {f"GIT_CONFIG_KEY_{index}": name, f"GIT_CONFIG_VALUE_{index}": value}
    answer = world.run(
        "image", "set", "--env", "dev", "--image", reference("proxy", "1"), "--revision",
        world.source(), "--no-check-registry", "--sign", **settings,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    raw = world.git("cat-file", "commit", "main", cwd=world.remote)
    assert "gpgsig -----BEGIN SSH SIGNATURE-----" in raw


def test_a_token_goes_to_its_host_alone() -> None:
    with git_environment("https://git.example.org/o/r.git", {"MANIFEST_TOKEN": "t"}) as given:
        assert given["GIT_CONFIG_KEY_0"] == "http.https://git.example.org/.extraHeader"
    for url in ("http://git.example.org/r.git", "git://git.example.org/r.git", "/srv/r.git"):
        with git_environment(url, {"MANIFEST_TOKEN": "t"}) as given:
            assert given == {}


def test_a_deploy_key_needs_known_hosts_and_leaves_nothing() -> None:
    with (
        pytest.raises(ReleaseError, match="MANIFEST_KNOWN_HOSTS"),
        git_environment("git@example.org:o/r.git", {"MANIFEST_DEPLOY_KEY": "k"}),
    ):
        pass
    settings = {"MANIFEST_DEPLOY_KEY": "k", "MANIFEST_KNOWN_HOSTS": "example.org ssh-ed25519 A"}
    with git_environment("git@example.org:o/r.git", settings) as given:
        command = given["GIT_SSH_COMMAND"]
        assert "StrictHostKeyChecking=yes" in command
        key = Path(command.split(" -i ")[1].split()[0])
        assert key.read_text() == "k\n"
        assert key.stat().st_mode & 0o077 == 0
    assert not key.exists()


def test_passwords_in_urls_are_not_shown() -> None:
    assert repository._masked("https://me:secret@example.org/r.git") == "https://example.org/r.git"
