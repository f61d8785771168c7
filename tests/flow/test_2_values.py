"""Stage 2: digests are written into the environment's values, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from flow import stages
from flow.site import Site
from tests.flow.conftest import REVISION_A, Registry, git, release


def image_arguments(registry: Registry, tmp_path: Path, name: str, content: str) -> list[str]:
    digest = registry.push(name, tmp_path, content)
    return [f"--image={name}={registry.host}/slipway/{name}:test@{digest}"]


def test_one_commit_for_several_services_touches_only_their_image_files(
    manifest_repo: Path, registry: Registry, tmp_path: Path
) -> None:
    before = git(manifest_repo, "rev-parse", "main")
    release(
        manifest_repo,
        *("image", "set", "--env=dev", f"--revision={REVISION_A}"),
        *image_arguments(registry, tmp_path, "proxy", "p1"),
        *image_arguments(registry, tmp_path, "unzip", "u1"),
    )
    assert git(manifest_repo, "rev-list", "--count", f"{before}..main") == "1"
    changed = git(manifest_repo, "diff", "--name-only", before, "main").splitlines()
    assert changed == [
        "values/dev/proxy.image.yaml",
        "values/dev/unzip.image.yaml",
        "values/dev/worker.image.yaml",
    ]
    message = git(manifest_repo, "log", "-1", "--format=%B", "main")
    assert REVISION_A in message
    assert "sha256:" in message


def test_the_same_digest_again_is_no_commit(
    manifest_repo: Path, registry: Registry, tmp_path: Path
) -> None:
    arguments = [
        *("image", "set", "--env=dev", f"--revision={REVISION_A}"),
        *image_arguments(registry, tmp_path, "proxy", "p2"),
    ]
    release(manifest_repo, *arguments)
    first = git(manifest_repo, "rev-parse", "main")
    release(manifest_repo, *arguments)
    assert git(manifest_repo, "rev-parse", "main") == first


def test_a_digest_the_registry_does_not_have_is_refused(
    manifest_repo: Path, registry: Registry
) -> None:
    before = git(manifest_repo, "rev-parse", "main")
    missing = "sha256:" + "1" * 64
    done = release(
        manifest_repo,
        *("image", "set", "--env=dev", f"--revision={REVISION_A}"),
        f"--image=proxy={registry.host}/slipway/proxy:test@{missing}",
        check=False,
    )
    assert done.returncode != 0
    assert missing in done.stderr
    assert git(manifest_repo, "rev-parse", "main") == before


def test_an_unknown_service_and_an_environment_nobody_deploys_are_refused_by_name(
    manifest_repo: Path, registry: Registry, tmp_path: Path
) -> None:
    before = git(manifest_repo, "rev-parse", "main")
    for environment, name, said in (("dev", "prxy", "prxy"), ("qa", "proxy", "qa")):
        digest = registry.push(name, tmp_path, "x")
        done = release(
            manifest_repo,
            *("image", "set", f"--env={environment}", f"--revision={REVISION_A}"),
            f"--image={name}={registry.host}/slipway/{name}:test@{digest}",
            check=False,
        )
        assert done.returncode != 0
        assert said in done.stderr
    assert git(manifest_repo, "rev-parse", "main") == before


def test_making_the_cluster_again_downgrades_no_model(
    manifest_repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: dev ran digits/2, and `make up` wrote digits/1."""
    said: list[tuple[str, ...]] = []

    def asked(site: object, *arguments: str, accepted: tuple[int, ...] = (0,)) -> str:
        said.append(arguments)
        return ""

    monkeypatch.setattr(stages, "release", asked)
    model = {"name": "digits", "uri": "s3://models/digits/1", "sha256": "a" * 64, "version": "1"}
    where = cast(Site, SimpleNamespace(manifest_repo=str(manifest_repo)))
    stages.values(where, "dev", [], model)
    assert [arguments[:2] for arguments in said] == [("model", "set")]
    newer = [f"--{key}={value}" for key, value in (model | {"sha256": "b" * 64}).items()]
    release(manifest_repo, "model", "set", "--env=dev", *newer)
    said.clear()
    stages.values(where, "dev", [], model)
    assert [arguments[:2] for arguments in said] == [("model", "set")], "of model.onnx, as before"
    newer = [f"--{key}={value}" for key, value in (model | {"version": "2"}).items()]
    release(manifest_repo, "model", "set", "--env=dev", *newer)
    said.clear()
    stages.values(where, "dev", [], model)
    assert said == []
