"""`release model add`, `list` and `remove`: from an ONNX file to an entry in Git."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from release.commands.changes import model_add
from tests.documented import block
from tests.inference import small_models
from tests.release.conftest import Answer, World
from tests.s3 import S3Server, serve_s3
from tests.trainer import mlflow_store

MODELS = "values/dev/inference.models.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3"), buckets=["models"]) as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


def add(world: World, name: str, source: Path | str, *more: str) -> Answer:
    return world.run(
        "model",
        "add",
        name,
        "--from",
        str(source),
        "--no-verify",
        "--json",
        *(() if "--on" in more else ("--on", "inference")),
        *more,
    )


def remove(world: World, name: str, *more: str) -> Answer:
    return world.run("model", "remove", name, "--env", "dev", "--json", *more)


def onnx(folder: Path, name: str = "iris", offset: float = 1.0) -> Path:
    path = folder / f"{name}.onnx"
    path.write_bytes(small_models.affine(2.0, offset))
    return path


def test_an_onnx_file_becomes_a_published_model_and_one_entry(
    world: World, s3: S3Server, tmp_path: Path
) -> None:
    answer = add(world, "iris", onnx(tmp_path))
    assert answer.code == 0, answer.out
    said = answer.json
    assert said["model"]["batching"]["enabled"]
    assert said["model"]["uri"] == "s3://models/iris/1"
    text = world.file(MODELS).decode()
    assert f'sha256: "{said["model"]["sha256"]}"' in text
    assert said["files"] == [MODELS]
    head = world.head()
    again = add(world, "iris", onnx(tmp_path))
    assert (again.code, again.json["changed"]) == (0, False), again.out
    assert world.head() == head
    listed = world.run("model", "list", "--env", "dev", "--json").json["models"]
    assert [(one["release"], one["name"], one["version"]) for one in listed] == [
        ("inference", "iris", "1")
    ]


def test_a_second_model_is_told_what_it_shares(world: World, s3: S3Server, tmp_path: Path) -> None:
    assert add(world, "first", onnx(tmp_path)).code == 0
    answer = add(world, "second", onnx(tmp_path))
    assert answer.code == 0, answer.out
    assert "inference serves first too" in " ".join(answer.json["notes"])
    assert remove(world, "first").code == 0
    text = world.file(MODELS).decode()
    assert "first" not in text
    assert "second" in text


def test_the_last_model_of_a_server_is_not_taken_by_accident(
    world: World, s3: S3Server, tmp_path: Path
) -> None:
    assert add(world, "lonely", onnx(tmp_path)).code == 0
    refused = remove(world, "lonely")
    assert refused.code == 1
    assert "runs no pods without one" in refused.json["message"]
    assert remove(world, "lonely", "--last").code == 0
    assert world.file(MODELS).decode().endswith("models: {}\n")
    assert remove(world, "lonely").code == 8


def test_names_and_versions_that_are_taken_are_refused_by_name(
    world: World, s3: S3Server, tmp_path: Path
) -> None:
    assert add(world, "taken", onnx(tmp_path)).code == 0
    head = world.head()
    name = add(world, "taken", onnx(tmp_path), "--version", "2")
    assert name.code == 5
    assert "inference in dev serves taken/1 already" in name.json["message"]
    # Found: the version that Git refused was published before, and stayed in S3.
    absent = add(world, "other", "s3://models/taken/2")
    assert "taken/2/model.json does not exist" in absent.json["message"]
    assert remove(world, "taken", "--last").code == 0
    version = add(world, "taken", onnx(tmp_path, offset=5.0))
    assert version.code == 1
    assert "s3://models/taken/1 holds another model" in version.json["message"]
    assert world.git("rev-list", "--count", f"{head}..main", cwd=world.remote) == "1"


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("absent.onnx", (), "there is no such file or folder"),
        ("models:/iris@champion", (), "there is no MLflow at sqlite:///mlflow.db"),
        ("https://example.org/iris.onnx", (), "cannot be read from https:"),
        ("s3://models/absent/1", (), "absent/1/model.json does not exist"),
        ("iris.onnx", ("--on", "proxy"), "has no release with models 'proxy'"),
        ("iris.onnx", ("--env", "qa"), "'qa'"),
        ("broken.onnx", (), "cannot load the model"),
    ],
)
def test_what_cannot_be_added_is_said_and_changes_nothing(
    world: World, tmp_path: Path, source: str, more: tuple[str, ...], said: str
) -> None:
    onnx(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    head = world.head()
    place = source if ":" in source else tmp_path / source
    answer = add(world, "refused", place, *more)
    assert answer.code != 0
    assert said in answer.json["message"]
    assert world.head() == head


def test_a_dry_run_publishes_and_commits_nothing(
    world: World, s3: S3Server, tmp_path: Path
) -> None:
    head = world.head()
    answer = add(world, "dry", onnx(tmp_path), "--dry-run")
    assert answer.code == 0, answer.out
    assert world.head() == head
    absent = add(world, "dry", "s3://models/dry/1")
    assert "does not exist" in absent.json["message"]


def test_a_version_that_is_published_is_added_as_it_is(
    world: World, s3: S3Server, tmp_path: Path
) -> None:
    """To a second environment, say: its model.json is neither written anew nor copied."""
    first = add(world, "again", onnx(tmp_path)).json
    answer = add(world, "again", "s3://models/again/1", "--env", "stage")
    assert answer.code == 0, answer.out
    assert answer.json["model"]["sha256"] == first["model"]["sha256"]
    assert "  again:\n" in world.file("values/stage/inference.models.yaml").decode()
    document = json.dumps(first["model"]["sample"])
    assert "inputs" in document


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_mlflow_is_added_with_the_registrys_version(
    world: World, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scikit-learn model of a real registry, by its alias, from nothing to one entry."""
    store = f"sqlite:///{tmp_path / 'registry.db'}"
    with mlflow_store.of(store, tmp_path / "artifacts"):
        mlflow_store.log_iris("flowers", times=2, alias="champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)  # MLflow took it off
    answer = add(world, "flowers", "models:/flowers@champion")
    assert answer.code == 0, answer.out + answer.err
    assert answer.json["model"]["uri"] == "s3://models/flowers/2"
    assert "inputs of FP64 are FP32 in the ONNX file" in answer.err
    assert answer.json["model"]["batching"]["enabled"]
    assert "  flowers:\n" in world.file(MODELS).decode()


def run_as_written(
    world: World, folder: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The commands of ``text``, in a folder with the file that they name."""
    onnx(folder)
    monkeypatch.chdir(folder)
    assert world.deploy("a", world.source(), "inference").code == 0
    verified: list[str] = []

    def verdict(environment: str, release: str, more: list[str], json_output: bool) -> int:
        verified.append(f"{environment}/{release}")
        return 0

    monkeypatch.setattr(model_add, "_verified", verdict)
    said = []
    for line in text.splitlines():
        program, *words = shlex.split(line)
        assert program == "release"
        answer = world.run(*words)
        assert answer.code == 0, answer.out + answer.err
        said.append(answer.out)
    assert verified == ["dev/iris"]
    return said


@pytest.mark.usefixtures("s3")
def test_the_command_of_the_readme_runs_as_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = block("README.md", containing="release model add").text
    (said,) = run_as_written(world, tmp_path, text, monkeypatch)
    assert "iris 1 loads: batched" in said
    assert "s3://models/iris/1" in said
    assert "iris is a release of its own, with the image and the values of inference" in said
    assert "  iris:\n" in world.file("values/dev/iris.models.yaml").decode()


@pytest.mark.usefixtures("s3")
def test_the_commands_of_the_page_run_as_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = block("docs/patterns/model-load.md", containing="release model add").text
    before = world.file("argocd/environments/dev.yaml")
    added, listed, _ = run_as_written(world, tmp_path, text, monkeypatch)
    assert "iris is a release of its own" in added
    assert "s3://models/iris/1" in listed
    assert world.file("argocd/environments/dev.yaml") == before
    assert not world.exists("values/dev/iris.models.yaml")
