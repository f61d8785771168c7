"""Programs are cached by all that decides what they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cluster import build


def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(build.PROGRAMS / "platform", tmp_path / "platform"))


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "coredns/main.go", "pause/main.go"])
def test_the_key_follows_each_input(tmp_path: Path, name: str) -> None:
    module = copy(tmp_path)
    before = build.key(module, "go1.26.8")
    assert build.key(module, "go1.26.8") == before
    with (module / name).open("a") as file:
        file.write("\n// changed\n")
    assert build.key(module, "go1.26.8") != before


def test_the_key_follows_the_toolchain(tmp_path: Path) -> None:
    module = copy(tmp_path)
    assert build.key(module, "go1.26.8") != build.key(module, "go1.27.0")


def test_every_program_is_pinned_as_a_tool_of_its_module() -> None:
    for program in build.ALL + build.CHECKERS:
        if program.package.startswith("./"):
            assert (build.PROGRAMS / program.module / program.package / "main.go").is_file()
            continue
        text = (build.PROGRAMS / program.module / "go.mod").read_text()
        assert re.search(rf"^(tool )?\s*{re.escape(program.package)}$", text, re.M), program


def test_every_tool_is_a_program_that_is_built() -> None:
    built = {program.package for program in build.ALL + build.CHECKERS}
    for module in {program.module for program in build.ALL + build.CHECKERS}:
        text = (build.PROGRAMS / module / "go.mod").read_text()
        block = re.search(r"^tool \(\n(.*?)^\)", text, re.M | re.S)
        single = re.search(r"^tool (\S+)$", text, re.M)
        assert block or single
        tools = block[1].split() if block else [single[1]] if single else []
        assert set(tools) <= built


def test_the_kubernetes_version_that_is_reported_is_the_one_that_is_pinned() -> None:
    text = (build.PROGRAMS / "platform" / "go.mod").read_text()
    assert f"k8s.io/kubernetes {build.KUBERNETES_VERSION}" in text
    assert f"gitVersion={build.KUBERNETES_VERSION}" in " ".join(build.flags())
