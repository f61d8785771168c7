"""`release image set` and `model set`."""

from __future__ import annotations

import functools

import pytest

from release.commands.changes import image as image_commands
from release.registry.client import Registry
from tests.release.conftest import World, digest, reference
from tests.release.images import push_image


def test_one_commit_writes_every_release_that_runs_the_image(world: World) -> None:
    revision = world.source()
    before = world.head()
    answer = world.deploy("1", revision, "proxy", "unzip")
    assert answer.code == 0, answer.err
    assert world.git("rev-parse", "main^", cwd=world.remote) == before
    changed = world.git("diff", "--name-only", before, "main", cwd=world.remote).split()
    assert changed == [
        "values/dev/proxy.image.yaml",
        "values/dev/unzip.image.yaml",
        "values/dev/worker.image.yaml",
    ]
    assert world.file("values/dev/worker.image.yaml").decode() == (
        "# Written by `release`; do not edit.\n"
        "image:\n"
        '  repository: "registry.test/slipway/proxy"\n'
        '  tag: "1"\n'
        f'  digest: "{digest("proxy1")}"\n'
        f'  revision: "{revision}"\n'
    )


def test_the_commit_carries_trailers(world: World) -> None:
    revision = world.source()
    world.deploy("1", revision)
    trailers = world.git("log", "-1", "--format=%(trailers:only)", "main", cwd=world.remote)
    assert "Release-Operation: image set" in trailers
    assert "Release-Environment: dev" in trailers
    assert "Release-Services: proxy, worker" in trailers
    assert f"Source-Revision: {revision}" in trailers
    new = f"registry.test/slipway/proxy@{digest('proxy1')}"
    assert f"Release-Image: proxy none -> {new}" in trailers


def test_nothing_to_change_makes_no_commit(world: World) -> None:
    revision = world.source()
    world.deploy("1", revision)
    head = world.head()
    answer = world.deploy("1", revision)
    assert (answer.code, answer.json["changed"]) == (0, False)
    assert world.head() == head


def test_a_dry_run_pushes_nothing(world: World) -> None:
    revision, head = world.source(), world.head()
    answer = world.run(
        "image", "set", "--env", "dev", "--image", reference("proxy", "1"), "--revision", revision,
        "--no-check-registry", "--dry-run",
    )  # fmt: skip
    assert answer.code == 0
    assert "Dry run" in answer.out
    assert world.head() == head


def test_an_older_build_never_overwrites_a_newer_one(world: World) -> None:
    older, newer = world.source(), world.source()
    assert world.deploy("2", newer).code == 0
    head = world.head()
    answer = world.deploy("1", older)
    assert answer.code == 3
    assert "newer" in answer.json["message"]
    assert world.head() == head


def test_of_several_images_only_the_superseded_ones_are_left_alone(world: World) -> None:
    older, newer = world.source(), world.source()
    world.deploy("2", newer, "proxy")
    answer = world.deploy("1", older, "proxy", "unzip")
    assert answer.code == 0
    assert [row["release"] for row in answer.json["changes"]] == ["unzip"]
    assert any("proxy" in note for note in answer.json["notes"])
    assert digest("proxy2") in world.file("values/dev/proxy.image.yaml").decode()


def test_a_build_of_another_line_is_refused(world: World) -> None:
    base = world.source()
    world.deploy("1", world.source())
    world.git("fetch", "-q", "origin")
    world.git("checkout", "-q", base)
    world.git("commit", "-q", "--allow-empty", "-m", "A branch")
    branch = world.git("rev-parse", "HEAD")
    world.git("push", "-q", "origin", f"{branch}:refs/heads/topic")
    answer = world.run(
        "image", "set", "--env", "dev", "--image", reference("proxy", "2"), "--revision", branch,
        "--no-check-registry", "--json", "--source", str(world.clone),
    )  # fmt: skip
    assert answer.code == 3
    assert "does not descend" in answer.json["message"]


def test_an_unknown_revision_is_refused_until_it_is_allowed(world: World) -> None:
    world.deploy("1", world.source())
    stranger = "f" * 40
    answer = world.deploy("2", stranger)
    assert answer.code == 3
    assert "--source" in answer.json["fix"]
    allowed = world.run(
        "image", "set", "--env", "dev", "--image", reference("proxy", "2"), "--revision", stranger,
        "--no-check-registry", "--allow-unrelated",
    )  # fmt: skip
    assert allowed.code == 0


def test_the_digest_must_be_in_the_registry(world: World, registry: str) -> None:
    revision = world.source()
    image = push_image(registry, "slipway/proxy", "1")
    absent = image.replace(image[-8:], "00000000")

    def image_set(reference: str) -> int:
        return world.run(
            "image", "set", "--env", "dev", "--image", f"proxy={reference}", "--revision", revision
        ).code

    assert image_set(absent) == 8
    assert image_set(image) == 0
    assert image.rsplit("@", 1)[1] in world.file("values/dev/proxy.image.yaml").decode()


def test_a_registry_that_is_down_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_commands, "registry", functools.partial(Registry, attempts=2))
    answer = world.run(
        "image", "set", "--env", "dev",
        "--image", f"proxy=127.0.0.1:9/slipway/proxy:1@{digest('x')}",
        "--revision", world.source(), "--json",
    )  # fmt: skip
    assert answer.code == 9
    assert "127.0.0.1:9" in answer.json["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--env", "qa"], 8, "argocd/environments/qa.yaml"),
        (["--env", "base"], 8, "Nobody deploys"),
        (["--image", reference("prxoy", "1")], 8, "prxoy"),
        (["--image", "proxy=registry.test/proxy:1"], 1, "no digest"),
        (["--image", f"proxy=registry.test/proxy@{digest('x')}"], 1, "no tag"),
        (["--image", f"registry.test/proxy:1@{digest('x')}"], 1, "no name"),
        (["--revision", "main"], 1, "full commit id"),
    ],
)
def test_bad_input_is_refused_before_any_commit(
    world: World, arguments: list[str], code: int, words: str
) -> None:
    options = {
        "--env": "dev",
        "--image": reference("proxy", "1"),
        "--revision": "a" * 40,
        **dict(zip(arguments[::2], arguments[1::2], strict=True)),
    }
    head = world.head()
    flat = [part for pair in options.items() for part in pair]
    answer = world.run("image", "set", *flat, "--no-check-registry", "--json")
    assert answer.code == code
    assert words in answer.json["message"]
    assert world.head() == head


def test_a_missing_key_is_an_error_and_never_an_invention(world: World) -> None:
    path = "values/dev/proxy.image.yaml"
    world.push({path: 'image:\n  repository: ""\n  tag: ""\n  revision: ""\n'})
    answer = world.deploy("1", world.source())
    assert answer.code == 1
    assert "image.digest" in answer.json["message"]
    assert path in answer.json["message"]


def test_a_service_that_is_nearly_right_is_suggested(world: World) -> None:
    answer = world.deploy("1", "a" * 40, "prxy")
    assert "'proxy'" in answer.json["fix"]


def model_set(world: World, version: str, release: str = "inference") -> int:
    return world.run(
        "model", "set", "--env", "dev", "--release", release, "--name", "digits",
        "--version", version, "--uri", f"s3://models/digits/{version}", "--sha256", "0" * 64,
    ).code  # fmt: skip


def test_model_set_writes_the_model(world: World) -> None:
    assert model_set(world, "3") == 0
    assert world.file("values/dev/inference.models.yaml").decode() == (
        "# Written by `release`; do not edit.\n"
        'models:\n  digits:\n    version: "3"\n    uri: "s3://models/digits/3"\n'
        f'    sha256: "{"0" * 64}"\n'
    )
    head = world.head()
    assert model_set(world, "3") == 0
    assert world.head() == head


def test_model_set_knows_which_releases_serve_models(world: World) -> None:
    assert model_set(world, "3", "proxy") == 8
