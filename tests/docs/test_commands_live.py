"""Every command of the docs that asks the cluster, run as it is written.

What a page's values say is deployed to dev by a commit first, as a reader would, and taken back
by another one.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from flow import site as sites
from tests.documented import ROOT, Block, blocks
from tests.e2e.conftest import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
CHALLENGER = "inference-challenger"
BLOCKS = [one for one in blocks() if one.how and one.how.get("with") == "dev"]


@pytest.fixture(scope="module")
def site() -> sites.Site:
    return sites.one_machine()


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with AWS's command line, which nothing else here needs."""
    folder = tmp_path_factory.mktemp("aws")
    uv = ROOT / ".tools/bin/uv"
    program = str(uv) if uv.exists() else "uv"
    shim = folder / "aws"
    shim.write_text(f'#!/bin/sh\nexec {program} tool run --quiet --from awscli==1.46.3 aws "$@"\n')
    shim.chmod(0o755)
    return folder


class Clone:
    """A work tree of the cluster's manifest repo, to commit and push as a person does."""

    def __init__(self, folder: Path, site: sites.Site) -> None:
        self.folder = folder
        self._git("clone", "-q", str(site.manifest_repo), str(folder), cwd=folder.parent)

    def _git(self, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=docs", "-c", "user.email=docs@localhost", *arguments],
            cwd=cwd or self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"git {arguments}: {done.stderr}"
        return done.stdout.strip()

    def merge(self, path: str, values: dict[str, Any]) -> None:
        """Write values over those of a file."""
        file = self.folder / path
        before = yaml.safe_load(file.read_text()) if file.exists() else {}
        file.write_text(yaml.safe_dump(merged(before or {}, values), sort_keys=False))

    def add_challenger(self) -> None:
        """The variant as the pages say: a row, its files, and a line of each that calls it."""
        for kind in ("image", "model"):
            text = (self.folder / f"values/dev/inference.{kind}.yaml").read_text()
            (self.folder / f"values/dev/{CHALLENGER}.{kind}.yaml").write_text(text)
        values = yaml.safe_load((self.folder / "values/dev/inference.yaml").read_text())
        self.merge(f"values/dev/{CHALLENGER}.yaml", values)
        for caller in ("proxy", "worker"):
            self.merge(f"values/dev/{caller}.yaml", {"calls": {CHALLENGER: {}}})
        rows = self.folder / "argocd/environments/dev.yaml"
        row = "          - {release: inference, chart: service}\n"
        text = rows.read_text()
        assert row in text
        own = f"          - {{release: {CHALLENGER}, chart: service, of: inference}}\n"
        rows.write_text(text.replace(row, row + own))

    def push(self, message: str) -> str:
        self._git("add", "-A")
        self._git("commit", "-q", "-m", message)
        self._git("push", "-q", "origin", "HEAD:main")
        return self._git("rev-parse", "HEAD")

    def revert(self, commit: str) -> str:
        self._git("pull", "-q", "--rebase", "origin", "main")
        self._git("revert", "--no-edit", commit)
        self._git("push", "-q", "origin", "HEAD:main")
        return self._git("rev-parse", "HEAD")


def merged(before: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``values`` over ``before``, map by map."""
    result = dict(before)
    for key, value in values.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


@contextmanager
def deployed(block: Block, site: sites.Site, folder: Path) -> Iterator[None]:
    """What the page's values say, in dev, until the block is left."""
    how = block.how or {}
    names = how.get("values", [])
    if not names:
        yield
        return
    release, clone = Release(site), Clone(folder / "clone", site)
    if how.get("challenger"):
        clone.add_challenger()
    for name in names:
        clone.merge(f"values/dev/{name}.yaml", block.values(name))
    commit = clone.push(f"Deploy what {block.page.stem} shows")
    try:
        release("verify", "--env=dev", f"--commit={commit}", "--timeout=240")
        yield
    finally:
        back = clone.revert(commit)
        release("verify", "--env=dev", f"--commit={back}", "--timeout=240")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda one: one.identity)
def test_documented_command_works(
    block: Block, site: sites.Site, aws: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        **site.aws_environment(),
        "PATH": f"{aws}:{os.environ['PATH']}",
        "KUBECONFIG": str(site.kubectl.kubeconfig),
        "UNZIP_BUCKET": "archives",
    }
    text = block.text.replace("kim/", f"kim-{uuid.uuid4().hex[:8]}/")
    assert block.how is not None
    wanted = block.how["expect"].replace("kim/", "kim-[0-9a-f]{8}/")
    with deployed(block, site, tmp_path):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(wanted, done.stdout), done.stdout + done.stderr
