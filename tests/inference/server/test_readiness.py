"""A server or an init container without its model says why in its log, its probe and its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference import small_models
from tests.pods import NOBODY, pod, run_to_its_end
from tests.s3 import S3Server, serve_s3
from tests.waits import until

MODEL = small_models.affine()
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-central-1"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("s3")
    with serve_s3(folder, buckets=["models"]) as running:
        version = folder / "data" / "models" / "digits" / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / "model.onnx").write_bytes(MODEL)
        described = {"name": "digits", "version": "1", "sha256": hashlib.sha256(MODEL).hexdigest()}
        (version / "model.json").write_text(json.dumps(described))
        yield running


def test_a_repository_that_is_not_there_ends_the_server(tmp_path: Path) -> None:
    """Found: no line in the log, and a pod that waited for the progress deadline."""
    gone = tmp_path / "nowhere"
    ended = run_to_its_end(tmp_path, "inference", "serve", INFERENCE_MODEL_REPOSITORY=str(gone))
    assert ended.code == 2
    assert (
        ended.message.text
        == f"INFERENCE_MODEL_REPOSITORY is {str(gone)!r}: there is no such folder"
    )
    assert "modelFetch" in ended.message.fix
    line = json.loads(next(line for line in ended.log.splitlines() if "cannot work" in line))
    assert (line["level"], line["reason"], line["fix"]) == (
        "error", ended.message.text, ended.message.fix,
    )  # fmt: skip


def test_an_empty_repository_that_nobody_fills_ends_the_server(repository: Path) -> None:
    ended = run_to_its_end(
        repository.parent, "inference", "serve", INFERENCE_MODEL_REPOSITORY=str(repository)
    )
    assert ended.code == 2
    assert ended.message.text == f"there is no model in {repository}"


def test_a_model_that_is_asked_for_and_not_there_is_named(repository: Path) -> None:
    small_models.put(repository, "iris", "1", MODEL)
    ended = run_to_its_end(
        repository.parent, "inference", "serve",
        INFERENCE_MODEL_REPOSITORY=str(repository), INFERENCE_MODELS='["iris", "digits"]',
    )  # fmt: skip
    assert ended.code == 2
    assert "model 'digits' is not served" in ended.message.text
    assert "iris" not in ended.message.text.replace(str(repository), "")


def test_a_model_that_does_not_load_ends_the_server_and_says_why(repository: Path) -> None:
    small_models.put(repository, "digits", "3", b"no model")
    ended = run_to_its_end(
        repository.parent, "inference", "serve", INFERENCE_MODEL_REPOSITORY=str(repository)
    )
    assert ended.code == 2
    assert "model 'digits' is not served: version 3: ONNX Runtime cannot load" in ended.message.text
    assert "inference check" in ended.message.fix


def test_a_folder_with_another_sha256_ends_the_server(repository: Path) -> None:
    small_models.put(repository, "digits", "1", MODEL)
    (repository / "digits" / "1" / "model.onnx").write_bytes(small_models.affine(3.0))
    ended = run_to_its_end(
        repository.parent, "inference", "serve", INFERENCE_MODEL_REPOSITORY=str(repository)
    )
    assert ended.code == 2
    assert "has sha256" in ended.message.text


def test_a_repository_that_is_looked_at_again_is_waited_for(tmp_path: Path) -> None:
    """A folder may be mounted or filled later where polling would see it."""
    repository = tmp_path / "models"
    settings = {
        "INFERENCE_MODEL_REPOSITORY": str(repository), "INFERENCE_REPOSITORY_POLL_SECONDS": "0.05",
    }  # fmt: skip
    with pod(tmp_path, "inference", "serve", **settings) as server:
        until(lambda: server.readiness()[0] == 503 and server.not_ready_lines(), "the line")
        reason = f"INFERENCE_MODEL_REPOSITORY is {str(repository)!r}: there is no such folder"
        assert server.readiness()[1]["models"].startswith(reason)
        assert server.not_ready_lines()[0]["reason"] == reason
        assert server.not_ready_lines()[0]["fix"]
        small_models.put(repository, "digits", "1", MODEL)
        until(lambda: server.readiness()[0] == 200, "the model")


def test_s3_that_does_not_answer_is_waited_for_and_named(tmp_path: Path) -> None:
    settings = KEYS | {
        "INFERENCE_MODEL_REPOSITORY": "s3://models", "AWS_ENDPOINT_URL_S3": f"http://{NOBODY}",
    }  # fmt: skip
    with pod(tmp_path, "inference", "serve", **settings) as server:
        line = until(server.not_ready_lines, "the line")[0]
        assert "s3://models" in line["reason"]
        assert "repository answers" in line["fix"]
        assert "s3://models" in server.readiness()[1]["models"]


def fetch(folder: Path, uri: str, sha256: str = "", **settings: str) -> tuple[int, str, str]:
    words = ("fetch", "--uri", uri, "--sha256", sha256, "--to", str(folder / "models"))
    ended = run_to_its_end(folder, "inference", *words, **settings)
    assert f"{ended.message.text}; {ended.message.fix}" in ended.log
    return ended.code, ended.message.text, ended.message.fix


def test_an_init_container_names_a_wrong_sha256(s3: S3Server, tmp_path: Path) -> None:
    code, reason, fix = fetch(tmp_path, "s3://models/digits/1", "0" * 64, **s3.environment())
    assert code == 2
    assert "0" * 64 in reason
    assert "release model set" in fix


def test_an_init_container_names_a_version_that_is_not_there(s3: S3Server, tmp_path: Path) -> None:
    code, reason, fix = fetch(tmp_path, "s3://models/digits/9", **s3.environment())
    assert (code, reason) == (2, "s3://models/digits/9/model.json does not exist")
    assert "publish this version" in fix


def test_an_init_container_names_keys_that_are_refused(s3: S3Server, tmp_path: Path) -> None:
    wrong = s3.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    code, reason, fix = fetch(tmp_path, "s3://models/digits/1", **wrong)
    assert code == 1, "keys may be granted meanwhile"
    assert "s3://models/digits/1/model.json cannot be read" in reason
    assert "keys or a role" in fix


def test_an_init_container_names_s3_that_does_not_answer(tmp_path: Path) -> None:
    address = {"AWS_ENDPOINT_URL_S3": f"http://{NOBODY}"}
    code, reason, fix = fetch(tmp_path, "s3://models/digits/1", **KEYS, **address)
    assert code == 1
    assert "s3://models/digits/1" in reason
    assert "S3 answers" in fix


def test_a_setting_that_is_wrong_ends_every_command(tmp_path: Path) -> None:
    ended = run_to_its_end(tmp_path, "inference", "serve", INFERENCE_MAX_BATCH_SIZE="many")
    assert ended.code == 2
    assert ended.message.text.startswith("INFERENCE_MAX_BATCH_SIZE: ")
    assert "Traceback" not in ended.log
