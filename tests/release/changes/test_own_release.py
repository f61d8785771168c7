"""A model's own release: `release model add` on the tree that Slipway ships, checked as it is then.

What is rendered from the commit is held against the checks of `release validate`, and against what
the callers of the model server that is there are told.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from release import validate
from release.changes import own_release
from release.render import helm
from release.values import layout
from tests.inference import small_models
from tests.release.conftest import IDENTITY, Answer, World
from tests.s3 import S3Server, serve_s3

ROOT = Path(__file__).resolve().parents[3]
APPLICATIONS = "argocd/environments/dev.yaml"


@pytest.fixture(scope="module")
def s3_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3"), buckets=["models"]) as running:
        yield running


@pytest.fixture
def s3(s3_of_module: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3_of_module.environment().items():
        monkeypatch.setenv(name, value)
    return s3_of_module


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A manifest repository with the tree that Slipway ships, its images deployed in dev."""
    monkeypatch.chdir(tmp_path)
    made = World(tmp_path, dict(IDENTITY))
    made.git("init", "-q", "--bare", "-b", "main", str(made.remote), cwd=tmp_path)
    made.git("clone", "-q", str(made.remote), str(made.clone), cwd=tmp_path)
    for part in ("argocd", "charts", "values"):
        shutil.copytree(ROOT / part, made.clone / part)
    made.git("checkout", "-q", "-b", "main")
    made.git("add", ".")
    made.git("commit", "-q", "-m", "Begin")
    made.git("push", "-q", "origin", "main")
    answer = made.deploy("a", made.source(), "inference", "proxy", "unzip")
    assert answer.code == 0, answer.out
    return made


def onnx(folder: Path) -> Path:
    path = folder / "iris.onnx"
    path.write_bytes(small_models.affine(2.0, 1.0))
    return path


def add(world: World, name: str, *more: str) -> Answer:
    source = onnx(world.folder)
    return world.run(
        "model", "add", name, "--from", str(source), "--no-verify", "--json", *more
    )  # fmt: skip


def remove(world: World, name: str) -> Answer:
    return world.run("model", "remove", name, "--env", "dev", "--json")


def checkout(world: World, folder: Path) -> Path:
    """The remote's newest commit as files."""
    archive = folder / "tree.tar"
    world.git("archive", "-o", str(archive), "main", cwd=world.remote)
    tree = folder / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tree], check=True)
    return tree


def values(root: Path, release: str) -> dict[str, Any]:
    """A release's values in dev as Helm merges them, of two levels."""
    document = yaml.safe_load((root / APPLICATIONS).read_text())
    [row] = [row for row in layout.rows(document, "dev") if row.name == release]
    merged: dict[str, Any] = {}
    for path in row.files:
        if (root / path).is_file():
            merged = laid_over(merged, yaml.safe_load((root / path).read_text()) or {})
    return merged


def laid_over(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    return low | {
        key: laid_over(low[key], value)
        if isinstance(value, dict) and isinstance(low.get(key), dict)
        else value
        for key, value in high.items()
    }


@pytest.mark.usefixtures("s3")
def test_a_model_gets_a_release_that_its_callers_know(shipped: World, tmp_path: Path) -> None:
    answer = add(shipped, "iris")
    assert answer.code == 0, answer.out + answer.err
    root = checkout(shipped, tmp_path)
    assert [str(one) for one in validate.validate(root).findings] == []
    [row] = [row for row in helm.releases(root, "dev") if row.name == "iris"]
    assert row.service == "inference"
    image = yaml.safe_load((root / "values/dev/iris.image.yaml").read_text())
    assert image == yaml.safe_load((root / "values/dev/inference.image.yaml").read_text())
    for caller in ("proxy", "worker"):
        told = values(root, caller)
        assert told["calls"] == {"inference": {}, "iris": {}}
        assert told["env"]["PROXY_BACKENDS"] == {
            "inference": {"type": "http", "url": "http://inference:8080", "models": "discover"},
            "iris": {"type": "http", "url": "http://iris:8080", "models": "discover"},
        }
    # Its connections end before Envoy's, like those of the server that it is like.
    assert values(root, "routing")["services"]["iris"] == {}
    # An image that is deployed later is that of every release that shares it.
    assert shipped.deploy("b", shipped.source(), "inference").code == 0
    for release in ("inference", "iris"):
        assert b'tag: "b"' in shipped.file(f"values/dev/{release}.image.yaml")


@pytest.mark.usefixtures("s3")
def test_the_command_may_be_run_again(shipped: World) -> None:
    assert add(shipped, "iris").code == 0
    head = shipped.head()
    again = add(shipped, "iris")
    assert (again.code, again.json["changed"]) == (0, False), again.out
    assert shipped.head() == head


@pytest.mark.usefixtures("s3")
def test_what_was_added_is_taken_away_to_the_byte(shipped: World) -> None:
    before = shipped.git("rev-parse", "main^{tree}", cwd=shipped.remote)
    assert add(shipped, "iris").code == 0
    assert add(shipped, "wine").code == 0
    assert remove(shipped, "iris").code == 0
    assert b"iris" not in shipped.file("values/dev/proxy.servers.yaml")
    assert b"wine" in shipped.file("values/dev/proxy.servers.yaml")
    assert remove(shipped, "wine").code == 0
    after = shipped.git("rev-parse", "main^{tree}", cwd=shipped.remote)
    assert shipped.git("diff", "--stat", before, after, cwd=shipped.remote) == ""


@pytest.mark.usefixtures("s3")
def test_a_model_on_a_release_that_is_there_makes_none(shipped: World) -> None:
    answer = add(shipped, "iris", "--on", "inference")
    assert answer.code == 0, answer.out
    assert answer.json["files"] == ["values/dev/inference.models.yaml"]


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("worker", (), "There is a release worker in dev already"),
        ("routing", (), "There is a release routing in dev already"),
        ("7", (), "makes no name of a release"),
        ("n" * 60, (), "makes no name of a release"),
        ("iris", ("--release", "Iris_1"), "no name of a release"),
        ("iris", ("--of", "proxy"), "has no release with models 'proxy'"),
        ("iris", ("--on", "inference", "--release", "iris"), "--release one that is to be made"),
        ("iris", ("--env", "stage"), "inference in stage has no image yet"),
    ],
)
def test_what_cannot_be_a_release_is_refused_before_anything_is_published(
    shipped: World, s3: S3Server, name: str, more: tuple[str, ...], said: str
) -> None:
    head = shipped.head()
    answer = add(shipped, name, *more)
    assert answer.code != 0
    assert said in answer.json["message"], answer.out
    assert answer.json["fix"]
    assert shipped.head() == head


@pytest.mark.usefixtures("s3")
def test_names_that_kubernetes_does_not_take_are_written_its_way(shipped: World) -> None:
    answer = add(shipped, "fraud_scorer.v2")
    assert answer.code == 0, answer.out
    assert "values/dev/fraud-scorer-v2.models.yaml" in answer.json["files"]
    assert b"fraud_scorer.v2" in shipped.file("values/dev/fraud-scorer-v2.models.yaml")


@pytest.mark.usefixtures("s3")
def test_files_that_no_row_names_are_not_written_over(shipped: World) -> None:
    shipped.push({"values/dev/iris.yaml": "replicas: 3\n"})
    answer = add(shipped, "iris")
    assert answer.code == 5
    assert "has files of a release iris" in answer.json["message"]


@pytest.mark.usefixtures("s3")
def test_a_rollback_goes_past_the_day_on_which_a_model_came(shipped: World) -> None:
    """Found: only states that had the new release counted as complete, so there was no way back."""
    first, before = shipped.file("values/dev/proxy.image.yaml"), shipped.head()
    files = add(shipped, "iris").json["files"]
    added = {path: shipped.file(path).decode() for path in files}
    shipped.git("update-ref", "refs/heads/main", before, cwd=shipped.remote)
    bad = first.decode().replace('tag: "a"', 'tag: "bad"')
    shipped.push(added | {"values/dev/proxy.image.yaml": bad})
    back = shipped.run("rollback", "--env", "dev", "--json")
    assert back.code == 0, back.out
    assert shipped.file("values/dev/proxy.image.yaml") == first
    # It is left alone, and so is what its callers are told of it.
    assert b"iris" in shipped.file(APPLICATIONS)
    assert b"iris" in shipped.file("values/dev/proxy.servers.yaml")


@pytest.mark.usefixtures("s3")
def test_a_promotion_says_which_model_it_leaves_alone(shipped: World) -> None:
    assert add(shipped, "iris").code == 0
    answer = shipped.run(
        "promote", "--from", "dev", "--to", "stage", "--override", "a test", "--json"
    )  # fmt: skip
    assert answer.code == 0, answer.out
    (said,) = [note for note in answer.json["notes"] if "iris" in note]
    assert "`release model add iris --from s3://models/iris/1 --env stage` makes one" in said


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("name", ["on", "null", "y", "hold"])
def test_a_name_with_a_meaning_in_yaml_or_here_is_refused(shipped: World, name: str) -> None:
    """Found: `on` was published before its row was refused; `hold` wrote the file of the holds."""
    answer = add(shipped, name)
    assert answer.code == 1, answer.out
    assert "makes no name of a release" in answer.json["message"]
    assert "--release" in answer.json["fix"]


def test_nothing_is_published_where_a_file_cannot_be_edited(shipped: World, s3: S3Server) -> None:
    """Found: the ApplicationSet was tried after the model lay in S3 for ever."""
    text = shipped.file(APPLICATIONS).decode()
    assert "{{ .release }}.models.yaml" in text
    lines = [
        line for line in text.splitlines(keepends=True)
        if "}}.models.yaml" not in line and "}}.servers.yaml" not in line
    ]  # fmt: skip
    shipped.push({APPLICATIONS: "".join(lines)})
    answer = add(shipped, "never-edited")
    assert answer.code != 0
    assert "names no models.yaml among its valueFiles" in answer.json["message"]
    assert list(s3.folder.rglob("*never-edited*")) == []


@pytest.mark.usefixtures("s3")
def test_files_of_a_release_whose_name_goes_on_behind_a_dot_stay(shipped: World) -> None:
    """Found: `model remove iris` took the files of the release iris.v2 with it."""
    assert add(shipped, "iris").code == 0
    text = shipped.file(APPLICATIONS).decode()
    row = "          - {release: iris.v2, chart: service, of: inference}\n"
    at = text.index("  # `release rollback --offline`")
    shipped.push(
        {APPLICATIONS: text[:at] + row + text[at:], "values/dev/iris.v2.yaml": "replicas: 1\n"}
    )
    answer = remove(shipped, "iris")
    assert answer.code == 0, answer.out
    assert shipped.file("values/dev/iris.v2.yaml") == b"replicas: 1\n"
    assert b"iris.v2" in shipped.file(APPLICATIONS)
    assert b"release: iris," not in shipped.file(APPLICATIONS)


@pytest.mark.usefixtures("s3")
def test_a_release_like_one_that_shares_has_the_same_service(
    shipped: World, tmp_path: Path
) -> None:
    """Found: the row said `of: iris`, a service without values, and so none of inference's."""
    assert add(shipped, "iris").code == 0
    answer = add(shipped, "wine", "--of", "iris")
    assert answer.code == 0, answer.out
    assert b"{release: wine, chart: service, of: inference}" in shipped.file(APPLICATIONS)
    root = checkout(shipped, tmp_path)
    assert [str(one) for one in validate.validate(root).findings] == []


@pytest.mark.usefixtures("s3")
def test_a_hold_on_what_is_edited_holds_both_ways(shipped: World) -> None:
    """Found: a hold on the proxy, or on everything, let its configuration be changed."""
    for held in ("proxy", None):
        only = [] if held is None else ["--service", held]
        hold = ("hold", "--env", "dev", *only, "--reason", "a test", "--owner", "kim")
        assert shipped.run(*hold).code == 0
        answer = add(shipped, "iris")
        assert answer.code == 4, answer.out
        assert "kim" in answer.json["message"]
        assert shipped.run("unhold", "--env", "dev").code == 0
    assert add(shipped, "iris").code == 0
    assert shipped.run("hold", "--env", "dev", "--service", "proxy", "--reason", "a test").code == 0
    assert remove(shipped, "iris").code == 4


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    "setting",
    [
        """'{"inference": {"url": "http://inference:8080"}}'""",
        "[{name: inference, url: 'http://inference:8080'}]",
    ],
)
def test_a_caller_that_cannot_be_told_is_named(shipped: World, setting: str) -> None:
    """Found: the address in a list or in text was passed over without a word."""
    text = shipped.file("values/dev/worker.yaml").decode()
    longer = text.replace("env:\n", f"env:\n  PROXY_OTHERS: {setting}\n")
    shipped.push({"values/dev/worker.yaml": longer})
    answer = add(shipped, "iris")
    assert answer.code == 0, answer.out
    assert any(
        "worker has the address of inference in PROXY_OTHERS" in note
        and "add http://iris:8080 there by hand" in note
        for note in answer.json["notes"]
    ), answer.json["notes"]


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    "text", ["env: {PROXY_BACKENDS: '{}', PROXY_BATCH: 4}\ncalls: [iris]\n", "calls: [\n", "- 1\n"]
)
def test_a_file_of_servers_that_somebody_edited_is_no_crash(shipped: World, text: str) -> None:
    assert add(shipped, "iris").code == 0
    shipped.push({"values/dev/worker.servers.yaml": text})
    answer = remove(shipped, "iris")
    if text.startswith("env"):
        assert answer.code == 0, answer.out
        assert b"PROXY_BATCH: 4" in shipped.file("values/dev/worker.servers.yaml")
    else:
        assert answer.code != 0
        assert "worker.servers.yaml is no map" in answer.json["message"]
        assert answer.json["fix"]


@pytest.mark.usefixtures("s3")
def test_only_what_routing_says_of_connections_is_said_of_the_new_server(shipped: World) -> None:
    """Found: a fault injected into one server, and its arms, were copied to the other's."""
    routes = {
        "timeout": "3s",
        "circuitBreaking": {"maxConnections": 8},
        "fault": {"abort": {"status": 503, "percent": 10}},
        "arms": {"arms": ["stable"]},
        "paths": ["/inference"],
    }
    shipped.push(
        {
            "values/services/inference/routes.yaml": yaml.safe_dump(
                {"services": {"inference": routes}}
            )
        }
    )
    assert add(shipped, "iris").code == 0
    said = yaml.safe_load(shipped.file("values/dev/routing.servers.yaml"))["services"]["iris"]
    assert said == {"timeout": "3s", "circuitBreaking": {"maxConnections": 8}}
    schema = json.loads((ROOT / "charts/routing/values.schema.json").read_text())
    named = schema["properties"]["services"]["additionalProperties"]
    known = json.dumps(named) + json.dumps(schema.get("$defs", {}))
    assert all(f'"{key}"' in known for key in own_release.OF_CONNECTIONS)
