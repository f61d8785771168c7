"""Stage 1: a commit becomes an image; the same commit, the same digest."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster import images
from cluster.layout import default_layout
from flow import image
from flow.errors import FlowError
from tests.flow.conftest import SOURCE, Registry, git
from tests.programs import require

APP = "unzip"
SMALL = """\
FROM scratch
ARG APP
ARG REVISION
LABEL org.opencontainers.image.revision="${REVISION}"
COPY apps/${APP} /app
USER 65532:65532
ENTRYPOINT ["/entrypoint"]
"""
"""What `flow image` does to a build shows here in a second; the real one takes a minute."""


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
def small(
    registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[image.Image]]:
    """A source whose image is small, and two builds of its commit without layers kept."""
    _builder()
    folder = tmp_path_factory.mktemp("small") / "source"
    (folder / "apps/kit").mkdir(parents=True)
    (folder / f"apps/{APP}").mkdir()
    for name in ("pyproject.toml", "uv.lock", "apps/kit/pyproject.toml"):
        (folder / name).write_text("")
    (folder / f"apps/{APP}/pyproject.toml").write_text("")
    (folder / "Dockerfile").write_text(SMALL)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=The source")
    made = [
        image.build(folder, APP, registry=f"{registry.host}/small", fresh=True) for _ in range(2)
    ]
    return folder, made


def test_two_builds_of_a_small_image_are_the_same_digest(
    small: tuple[Path, list[image.Image]],
) -> None:
    source, built = small
    assert built[0].digest.startswith("sha256:")
    assert built[0].digest == built[1].digest
    assert built[0].revision == git(source, "rev-parse", "HEAD")
    assert built[0].reference.endswith(f"{built[0].revision[:12]}@{built[0].digest}")
    assert config(built[0])["Labels"]["org.opencontainers.image.revision"] == built[0].revision


def test_the_same_content_is_not_built_again(
    small: tuple[Path, list[image.Image]], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, built = small

    def fails(*_: object, **__: object) -> str:
        raise AssertionError("it was built again")

    monkeypatch.setattr(image, "_buildah", fails)
    monkeypatch.setattr(image, "_buildx", fails)
    again = image.build(source, APP, registry=f"{registry.host}/small")
    assert again.digest == built[0].digest


def test_the_dockerfile_leaves_the_builder_behind_and_runs_as_nobody() -> None:
    """The sample of what the conformance tests below see in the built image."""
    builder, last = (SOURCE / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[1:]
    compiles = [line for line in builder.splitlines() if "-m compileall" in line]
    assert len(compiles) == 2
    assert all("--invalidation-mode unchecked-hash" in line for line in compiles)
    lines = last.splitlines()
    assert not [line for line in lines if line.startswith(("RUN", "ADD"))]
    copied = {line.split()[-2] for line in lines if line.startswith("COPY")}
    assert copied == {"/usr/lib/locale/C.utf8", "/opt/slipway", "/opt/app", "/entrypoint"}
    assert "USER 65532:65532" in lines
    assert 'ENTRYPOINT ["/entrypoint"]' in lines
    assert 'org.opencontainers.image.revision="${REVISION}"' in last


def _builder() -> None:
    require("buildah")
    if os.geteuid() != 0:
        pytest.skip("buildah's chroot isolation needs root")


def config(built: image.Image) -> dict[str, Any]:
    """What an image in the registry says of how it is run."""
    reference = f"{built.repository}@{built.digest}"
    text = subprocess.run(
        [require("crane"), "config", "--insecure", reference],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, Any] = json.loads(text)["config"]
    return found


@pytest.fixture(scope="session")
def built(source: Path, registry: Registry) -> list[image.Image]:
    """Two builds of one commit, neither with the other's layers."""
    _builder()
    require("debootstrap")
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


@pytest.mark.conformance
@pytest.mark.timeout(400)
def test_two_builds_of_one_commit_are_the_same_digest(
    built: list[image.Image], source: Path
) -> None:
    assert built[0].digest.startswith("sha256:")
    assert built[0].digest == built[1].digest
    assert built[0].revision == git(source, "rev-parse", "HEAD")
    assert built[0].reference.endswith(f"{built[0].revision[:12]}@{built[0].digest}")


@pytest.mark.conformance
@pytest.mark.timeout(400)
def test_the_image_runs_as_a_numeric_user_and_says_what_it_was_built_from(
    built: list[image.Image],
) -> None:
    found = config(built[0])
    assert found["User"] == "65532:65532"
    assert found["Entrypoint"] == ["/entrypoint"]
    assert found["Labels"]["org.opencontainers.image.revision"] == built[0].revision


@pytest.mark.conformance
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
