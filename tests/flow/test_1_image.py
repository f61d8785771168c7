"""Stage 1: a commit becomes an image; the same commit, the same digest."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cluster import images
from cluster.layout import default_layout
from flow import image
from flow.errors import FlowError
from tests.flow.conftest import SOURCE, Registry, git
from tests.programs import require

APP = "unzip"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image is made of, committed: a test must not depend on what is uncommitted."""
    folder = tmp_path_factory.mktemp("image") / "source"
    folder.mkdir()
    paths = ["Dockerfile", "pyproject.toml", "uv.lock", "apps/kit", f"apps/{APP}"]
    listed = git(SOURCE, "ls-files", "--cached", "--others", "--exclude-standard", *paths)
    for name in listed.splitlines():
        if (SOURCE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((SOURCE / name).read_bytes())
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=The source")
    return folder


@pytest.fixture(scope="session")
def built(source: Path, registry: Registry) -> list[image.Image]:
    """Two builds of one commit, neither with the other's layers."""
    require("buildah")
    require("debootstrap")
    if os.geteuid() != 0:
        pytest.skip("buildah's chroot isolation needs root")
    images.ensure_base(default_layout(), print)
    volumes = tuple(v.removeprefix("--volume=") for v in images.certificate_volumes())
    return [
        image.build(
            source,
            APP,
            registry=f"{registry.host}/slipway",
            base=images.BASE,
            build_volumes=volumes,
            fresh=True,
        )
        for _ in range(2)
    ]


@pytest.mark.timeout(400)
def test_two_builds_of_one_commit_are_the_same_digest(
    built: list[image.Image], source: Path
) -> None:
    assert built[0].digest.startswith("sha256:")
    assert built[0].digest == built[1].digest
    assert built[0].revision == git(source, "rev-parse", "HEAD")
    assert built[0].reference.endswith(f"{built[0].revision[:12]}@{built[0].digest}")


@pytest.mark.timeout(400)
def test_the_same_content_is_not_built_again(
    built: list[image.Image], source: Path, registry: Registry
) -> None:
    # A builder that would fail shows that none is called.
    again = image.build(source, APP, registry=f"{registry.host}/slipway", base=images.BASE)
    assert again.digest == built[0].digest


@pytest.mark.timeout(400)
def test_the_image_runs_as_a_numeric_user_and_says_what_it_was_built_from(
    built: list[image.Image],
) -> None:
    reference = f"{built[0].repository}@{built[0].digest}"
    text = subprocess.run(
        [require("crane"), "config", "--insecure", reference],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    config = json.loads(text)["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/entrypoint"]
    assert config["Labels"]["org.opencontainers.image.revision"] == built[0].revision


@pytest.mark.timeout(400)
def test_no_compiler_and_no_cache_is_left_in_the_image(
    built: list[image.Image], tmp_path: Path
) -> None:
    reference = f"{built[0].repository}@{built[0].digest}"
    archive = tmp_path / "image.tar"
    subprocess.run(
        [require("crane"), "export", "--insecure", reference, str(archive)],
        check=True,
        capture_output=True,
    )
    listed = subprocess.run(
        ["tar", "--list", f"--file={archive}"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert f"opt/app/bin/{APP}" in listed
    unwanted = ("usr/bin/gcc", "usr/bin/cc", "uv/bin/uv", "root/.cache/", "source/")
    assert [name for name in listed if name.startswith(unwanted)] == []


def test_a_service_that_does_not_exist_is_refused_by_name(source: Path) -> None:
    with pytest.raises(FlowError, match=f"no service 'prxy' under apps/; name one of: kit, {APP}"):
        image.build(source, "prxy", registry="127.0.0.1:1/slipway")


def test_a_registry_that_is_down_is_named(source: Path) -> None:
    with pytest.raises(FlowError, match=r"registry at 127\.0\.0\.1:1 does not answer"):
        image.build(source, APP, registry="127.0.0.1:1/slipway")
