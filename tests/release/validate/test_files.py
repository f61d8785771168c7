"""Files of values as strangers write them: other encodings, names, signs, and rules in a circle."""

from __future__ import annotations

from pathlib import Path

import pytest

from release.render import helm
from release.render.helm import Rendered
from release.validate import run
from release.validate.files import listing
from release.validate.network import addresses
from release.validate.objects import schemas
from release.values import promotion_policy
from release.values.folder import Folder
from tests.programs import require
from tests.release.broken_values import added, copied, found, replaced


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copied(tmp_path)


@pytest.mark.parametrize(
    ("data", "line", "fix"),
    [
        ("a: 1\nb: 한글\n".encode("euc-kr"), 2, "save the file as UTF-8"),
        (b"a:\n\tb: 1\n", 2, "indent with blanks"),
        (b"a: 1\nb: *base\n", 2, "set the anchor (&name)"),
        (b"a: 1\nb: [1\nc: 2\n", 3, "mend the YAML there"),
        (b"a: \x00\n", 0, "mend the YAML"),
        (b"a: 1\n", 0, ""),
    ],
)  # fmt: skip
def test_a_file_that_is_no_yaml_has_a_line_and_a_fix(
    tmp_path: Path, data: bytes, line: int, fix: str
) -> None:
    """Found: Helm's refusal stood there alone."""
    file = tmp_path / "proxy.yaml"
    file.write_bytes(data)
    told = schemas.unreadable(file)
    assert told[0] == line
    assert fix in told[1]
    assert bool(fix) == bool(told[1])
    release = helm.Release("dev", "proxy", "service", "charts/service", "dev", (file.name,), ())
    refused = Rendered(release, "", f"failed to parse {file.name}: error converting YAML to JSON")
    [one] = schemas.of_helm(tmp_path, refused)
    assert (one.file, one.line) == ("proxy.yaml", line)
    assert one.fix


def said(root: Path) -> list[str]:
    listed = helm.releases(root, "dev")
    return [str(one) for one in listing.of_environment(root, "dev", listed)]


def test_a_hold_that_cannot_be_read_is_found(root: Path) -> None:
    assert said(root) == []
    added(root, "values/dev/hold.yaml", "holds: {proxy\n")
    [one] = said(root)
    assert one.startswith("values/dev/hold.yaml")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("proxy.yml", "move what it sets into values/dev/proxy.yaml"),
        ("other.yml", "rename it to values/dev/other.yaml"),
        ("proxy.yaml.bak", "delete it"),
        ("proxy.json", "delete it"),
    ],
)
def test_a_file_that_nothing_reads_is_found(root: Path, name: str, fix: str) -> None:
    """Found: what stood in proxy.yml beside proxy.yaml was lost without a word."""
    added(root, f"values/dev/{name}", "replicas: 3\n")
    [one] = said(root)
    assert one.startswith(f"values/dev/{name}: is read by nothing")
    assert fix in one


def test_pages_and_hidden_files_are_left_to_people(root: Path) -> None:
    added(root, "values/dev/README.md", "# dev\n")
    added(root, "values/dev/.gitkeep", "")
    assert said(root) == []


@pytest.mark.parametrize(
    ("rules", "keys"),
    [
        ("prod: {from: [stage]}\nstage: {from: [prod]}\n", ["prod.from"]),
        ("prod: {from: [prod]}\n", ["prod.from"]),
        ("prod: {from: [stage]}\nstage: {from: [dev]}\ndev: {from: [prod]}\n", ["dev.from"]),
        ("prod: {from: [stage]}\nstage: {from: [dev]}\n", []),
        ("prod: {from: [stage]}\nstage: {from: [prod, dev]}\n", []),
    ],
)
def test_rules_of_promotion_in_a_circle_are_found(root: Path, rules: str, keys: list[str]) -> None:
    (root / promotion_policy.PATH).write_text(rules)
    told = list(promotion_policy.problems(Folder(root)))
    assert [one.key for one in told] == keys
    assert all("no build ever gets into them" in one.message and one.line for one in told)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("http://inference\uff1a8080", "http://inference:8080"),
        ("http\uff1a//inference:8080", "http://inference:8080"),
        ("http://inference\u200b:8080/v2", "http://inference:8080"),
        ("http://inference\u3002dev:8080", "http://inference.dev:8080"),
        ("redis\uff1a6379", "redis:6379"),
        ("inference:\uff18\uff10\uff18\uff10", "inference:8080"),
        ("http://inference:8080", None),
        ("\uc790\uc138\ud788\uff1a https://example.com/\uff08a\uff09", None),
        ("{icon}\uff1a{key}", None),
    ],
)  # fmt: skip
def test_signs_that_only_look_like_those_of_an_address(text: str, meant: str | None) -> None:
    told = addresses.written_meant(text)
    assert (told[1] if told else None) == meant


def test_a_full_width_colon_is_one_finding(root: Path) -> None:
    """Found: a Korean keyboard's colon had no finding, and no request arrived."""
    require("helm")
    replaced(
        root, "values/services/proxy/service.yaml", "http://inference:", "http://inference\uff1a"
    )
    [one] = found(root)
    assert (one.file, one.line, one.key) == (
        "values/services/proxy/service.yaml",
        6,
        "env.PROXY_BACKENDS.inference.url",
    )
    assert "write http://inference:8080" in one.fix


def test_a_file_in_another_encoding_takes_no_finding_of_others(root: Path) -> None:
    """Found: a traceback."""
    require("helm")
    require("kubeconform")
    file = root / "values/dev/unzip.yaml"
    file.write_bytes(file.read_bytes() + "# 한글\n".encode("euc-kr"))
    added(root, "values/dev/proxy.yml", "replicas: 3\n")
    told = run.validate(root, ["dev"]).findings
    assert {"values/dev/unzip.yaml", "values/dev/proxy.yml"} <= {one.file for one in told}
    assert all(one.fix for one in told), [str(one) for one in told]
