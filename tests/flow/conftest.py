"""A registry, a repo and images as the five stages see them, all real and none in a cluster."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.programs import require
from tests.waits import SECONDS, until

SOURCE = Path(__file__).parents[2]
REVISION_A, REVISION_B = "a" * 40, "b" * 40


@dataclass(frozen=True)
class Registry:
    """A docker-registry on a free port of loopback."""

    host: str

    def push(self, name: str, folder: Path, content: str) -> str:
        """Push a small image and return its digest."""
        layer = folder / "layer.tar"
        (folder / "content").write_text(content)
        with tarfile.open(layer, "w") as archive:
            archive.add(folder / "content", "content")
        reference = f"{self.host}/slipway/{name}:test"
        crane = require("crane")
        subprocess.run(
            [crane, "append", "--insecure", "-f", str(layer), "-t", reference],
            check=True,
            capture_output=True,
        )
        done = subprocess.run(
            [crane, "digest", "--insecure", reference], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    program = require("docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    configuration = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": host},
    }
    (folder / "registry.yaml").write_text(yaml.safe_dump(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "registry.yaml")],
            stdout=log,
            stderr=log,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        return _answers(host)

    until(answers, "docker-registry")
    yield Registry(host)
    process.terminate()
    process.wait(timeout=SECONDS)


def _answers(host: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}/v2/", timeout=SECONDS):
            return True
    except (urllib.error.URLError, OSError):
        return False


def git(folder: Path, *arguments: str) -> str:
    """Standard output of Git in a folder."""
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def copy_source(target: Path) -> Path:
    """The working tree's charts, values and Argo CD files as a repo of one commit."""
    target.mkdir(parents=True)
    for name in ("charts", "values", "argocd", "docs"):
        shutil.copytree(SOURCE / name, target / name)
    git(target, "init", "--quiet", "--initial-branch=main")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--message=The source")
    return target


@pytest.fixture
def manifest_repo(tmp_path: Path) -> Path:
    """A bare repo of the manifests in which nothing is deployed yet."""
    source = copy_source(tmp_path / "source")
    bare = tmp_path / "manifests.git"
    git(source, "clone", "--quiet", "--bare", str(source), str(bare))
    return bare


@pytest.fixture(scope="session")
def deployed(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which stage 2 has written images and a model into every environment."""
    folder = tmp_path_factory.mktemp("deployed")
    source = copy_source(folder / "source")
    bare = folder / "manifests.git"
    git(source, "clone", "--quiet", "--bare", str(source), str(bare))
    digests = {name: registry.push(name, folder, name) for name in ("proxy", "inference", "unzip")}
    for environment in ("dev", "stage", "prod"):
        release(
            bare,
            *("image", "set", f"--env={environment}", f"--revision={REVISION_A}"),
            *(
                f"--image={name}={registry.host}/slipway/{name}:test@{digest}"
                for name, digest in digests.items()
            ),
        )
        release(
            bare,
            *("model", "set", f"--env={environment}", "--name=digits", "--version=1"),
            *("--uri=s3://models/digits/1", f"--sha256={'0' * 64}"),
        )
    clone = folder / "clone"
    git(folder, "clone", "--quiet", str(bare), str(clone))
    return clone


def release(repo: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The `release` command on a repo, as people run it."""
    done = subprocess.run(
        ["release", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MANIFEST_REPO": str(repo), "COLUMNS": "200"},
        cwd=repo,
    )
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
    return done
