"""Programs are cached by all that decides what they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from cluster import addons, build
from cluster.layout import Layout

OPTIONAL = tuple(program for programs in build.OPTIONAL.values() for program in programs)
PROGRAMS = build.ALL + build.FOR_TESTS + OPTIONAL


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
    for program in PROGRAMS:
        if program.package.startswith("./"):
            assert (build.PROGRAMS / program.module / program.package / "main.go").is_file()
            continue
        text = (build.PROGRAMS / program.module / "go.mod").read_text()
        assert re.search(rf"^(tool )?\s*{re.escape(program.package)}$", text, re.M), program


def test_every_tool_is_a_program_that_is_built() -> None:
    built = {program.package for program in PROGRAMS}
    for module in {program.module for program in PROGRAMS}:
        text = (build.PROGRAMS / module / "go.mod").read_text()
        block = re.search(r"^tool \(\n(.*?)^\)", text, re.M | re.S)
        single = re.search(r"^tool (\S+)$", text, re.M)
        assert block or single
        tools = block[1].split() if block else [single[1]] if single else []
        assert set(tools) <= built


def test_the_kubernetes_version_that_is_reported_is_the_one_that_is_pinned() -> None:
    text = (build.PROGRAMS / "platform" / "go.mod").read_text()
    assert f"k8s.io/kubernetes {build.KUBERNETES_VERSION}" in text
    assert f"gitVersion={build.KUBERNETES_VERSION}" in " ".join(build.flags("platform"))


def test_a_file_that_an_older_cache_lacks_is_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "module"
    module.mkdir()
    (module / "a.yaml").write_text("a")
    (module / "b.yaml").write_text("b")
    monkeypatch.setattr(build, "_module_folder", lambda _module, _package: module)
    where = Layout(tmp_path, tmp_path)
    monkeypatch.setitem(build.SHARED_FILES, "platform", (("p", "a.yaml", "a.yaml"),))
    folder = build.ensure_shared(where)
    assert [path.name for path in folder.iterdir()] == ["a.yaml"]
    both = (("p", "a.yaml", "a.yaml"), ("p", "b.yaml", "b.yaml"))
    monkeypatch.setitem(build.SHARED_FILES, "platform", both)
    assert build.ensure_shared(where) == folder
    assert (folder / "b.yaml").read_text() == "b"


def test_the_gateway_api_is_its_kinds_alone(tmp_path: Path) -> None:
    """The policy beside them would forbid the owner of a cluster the experimental channel."""
    for name in ("httproutes", "gateways", "vap_safeupgrades"):
        path = tmp_path / f"gateway.networking.k8s.io_{name}.yaml"
        path.write_text(f"metadata: {{name: {name}}}\n")
    (tmp_path / "kustomization.yaml").write_text("resources: []\n")
    text = addons.gateway_api(tmp_path).manifests
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(text)]
    assert names == ["gateways", "httproutes"]


def test_the_version_of_prometheus_is_the_one_that_is_pinned() -> None:
    text = (build.PROGRAMS / "prometheus" / "go.mod").read_text()
    major, minor, patch = build.PROMETHEUS_VERSION.removeprefix("v").split(".")
    assert f"github.com/prometheus/prometheus v0.{major}{minor}.{patch} " in text


def test_tags_of_one_module_leave_the_others_builds_alone() -> None:
    assert "-tags" in build.flags("prometheus")
    assert "-tags" not in build.flags("platform")
