"""inference.repository against a real S3 server, with faults in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelError
from inference.repository import fetch
from inference.repository.layout import FolderRepository, S3Repository, newest
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor, until
from tests.ports import free_port
from tests.s3 import S3Server, serve_s3

MODEL = small_models.affine()
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3"), buckets=["models"]) as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


def published(name: str, version: str = "1", model: bytes = MODEL, **manifest: Any) -> str:
    """Put a version into the bucket."""
    store = fetch.open_store("s3://models")
    document = {"name": name, "version": version, "sha256": hashlib.sha256(model).hexdigest()}
    store.put(f"{name}/{version}/model.onnx", model)
    store.put(f"{name}/{version}/model.json", json.dumps(document | manifest).encode())
    return f"s3://models/{name}/{version}"


def sha256_of(uri: str) -> str:
    """The sha256 of a version's model.json: what Git pins."""
    document = bytes(fetch.open_store(uri).get("model.json").bytes())
    return hashlib.sha256(document).hexdigest()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_model_arrives_whole_and_once(s3: S3Server, tmp_path: Path) -> None:
    uri = published("whole")
    pinned = sha256_of(uri)
    fetched = await fetch.fetch(uri, tmp_path, sha256=pinned)
    assert fetched.sha256 == pinned
    assert fetched.folder == tmp_path / "whole" / "1"
    assert (fetched.folder / "model.onnx").read_bytes() == MODEL
    assert json.loads((fetched.folder / "model.json").read_text())["sha256"] == SHA256
    assert fetched.bytes_read == len(MODEL)
    assert (await fetch.fetch(uri, tmp_path, sha256=pinned)).bytes_read == 0
    assert names_in(tmp_path) == ["whole"]
    assert names_in(fetched.folder) == ["model.json", "model.onnx"]


async def test_another_sha256_is_refused(s3: S3Server, tmp_path: Path) -> None:
    uri = published("refused")
    with pytest.raises(ModelError, match=f"{sha256_of(uri)}, but {'0' * 64} was asked"):
        await fetch.fetch(uri, tmp_path, sha256="0" * 64)
    assert names_in(tmp_path) == []


async def test_labels_cannot_change_under_a_pinned_sha256(s3: S3Server, tmp_path: Path) -> None:
    """Found: only model.onnx was pinned, so labels, transforms and rules changed without Git."""
    uri = published("pinned", labels=["cat", "dog"])
    pinned = sha256_of(uri)
    await fetch.fetch(uri, tmp_path, sha256=pinned)
    published("pinned", labels=["dog", "cat"])
    with pytest.raises(ModelError, match=f"{sha256_of(uri)}, but {pinned} was asked"):
        await fetch.fetch(uri, tmp_path, sha256=pinned)
    fetched = await fetch.fetch(uri, tmp_path, sha256=sha256_of(uri))
    assert json.loads((fetched.folder / "model.json").read_text())["labels"] == ["dog", "cat"]


async def test_an_entry_with_the_sha256_of_the_model_gets_the_command_that_renews_it(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = published("older", version="4")
    with pytest.raises(ModelError, match=r"is the sha256 of model\.onnx") as refused:
        await fetch.fetch(uri, tmp_path, sha256=SHA256)
    assert refused.value.final
    assert (
        f"release model set --env <environment> --name older --version 4 --uri {uri} "
        f"--sha256 {sha256_of(uri)}"
    ) in refused.value.fix


async def test_a_model_json_that_names_no_sha256_pins_nothing(s3: S3Server, tmp_path: Path) -> None:
    uri = published("loose", sha256=None)
    with pytest.raises(ModelError, match=r"does not name the sha256 of model\.onnx"):
        await fetch.fetch(uri, tmp_path, sha256=sha256_of(uri))


async def test_bytes_that_are_not_the_manifests_are_refused(s3: S3Server, tmp_path: Path) -> None:
    uri = published("tampered")
    fetch.open_store("s3://models").put("tampered/1/model.onnx", MODEL + b"x")
    with pytest.raises(ModelError, match=f"but its model.json says {SHA256}: refused"):
        await fetch.fetch(uri, tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("uri", "names"),
    [
        ("s3://models/absent/1", "absent/1/model.json does not exist"),
        ("ftp://models/a/1", "neither s3://bucket/prefix nor a folder"),
        ("nowhere", "no such folder"),
    ],
)
async def test_what_is_not_there_is_named(
    s3: S3Server, tmp_path: Path, uri: str, names: str
) -> None:
    with pytest.raises(ModelError, match=names):
        await fetch.fetch(uri, tmp_path)


class Flaky:
    """A TCP relay to the S3 server that cuts each connection after so many bytes of answer."""

    def __init__(self, target: str, cut_after: int) -> None:
        self.port = int(target.rsplit(":", 1)[1])
        self.cut_after = cut_after
        self.cuts = 0
        self.whole = False

    async def __aenter__(self) -> str:
        self.server = await asyncio.start_server(self.relay, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self.port)

        async def up() -> None:
            while data := await reader.read(65536):
                outer.write(data)

        sending = asyncio.create_task(up())
        passed = 0
        try:
            while data := await inner.read(16384):
                writer.write(data)
                passed += len(data)
                if not self.whole and passed > self.cut_after:
                    self.cuts += 1
                    break
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            sending.cancel()
            outer.close()
            writer.close()


async def test_a_cut_connection_is_resumed_where_it_stopped(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "CHUNK", 64 * 1024)
    big = small_models.slow(1)  # 4 MB
    uri = published("big", model=big)
    flaky = Flaky(s3.url, cut_after=1_500_000)
    async with flaky as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        fetched = await fetch.fetch(uri, tmp_path, request_timeout=5, attempts=20)
    assert flaky.cuts >= 1
    assert (fetched.folder / "model.onnx").read_bytes() == big


class Lines:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def warning(self, message: str, **fields: object) -> None:
        self.lines.append({"message": message, **fields})


async def test_why_it_waits_is_logged_while_it_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: while S3 was down status said "starting", and of why `stamina.retry_scheduled`."""
    said = Lines()
    monkeypatch.setattr(fetch, "log", said)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(ModelError, match="cannot be read"):
        await fetch.fetch("s3://models/whole/1", tmp_path, attempts=2)
    assert [line["attempt"] for line in said.lines] == [1, 2]
    first = said.lines[0]
    assert first["message"] == "not ready"
    assert str(first["reason"]).startswith("s3://models/whole/1/model.json cannot be read: ")
    assert "AWS_ENDPOINT_URL_S3" in str(first["fix"])


async def test_what_an_earlier_process_left_is_kept(s3: S3Server, tmp_path: Path) -> None:
    big = small_models.slow(1)
    uri = published("kept", model=big)
    store = fetch.open_store("s3://models")
    tag = store.head("kept/1/model.onnx")["e_tag"]
    staging = tmp_path / ".kept-1.part"
    staging.mkdir()
    (staging / "model.onnx").write_bytes(big[:3_000_000])
    (staging / ".model.onnx.tag").write_text(str(tag))
    fetched = await fetch.fetch(uri, tmp_path)
    assert fetched.bytes_read == len(big) - 3_000_000
    assert (fetched.folder / "model.onnx").read_bytes() == big


async def test_what_was_left_of_another_object_is_not_mixed_in(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = published("mixed")
    staging = tmp_path / ".mixed-1.part"
    staging.mkdir()
    (staging / "model.onnx").write_bytes(b"of another object")
    (staging / ".model.onnx.tag").write_text("another tag")
    fetched = await fetch.fetch(uri, tmp_path)
    assert (fetched.folder / "model.onnx").read_bytes() == MODEL


async def test_a_server_that_never_answers_costs_the_time_limit_and_no_more(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and that is all
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"not fetched within 0\.3 s"):
            await fetch.fetch("s3://models/whole/1", tmp_path, time_limit=0.3)


def test_the_command_prints_json_and_refuses_with_a_status(s3: S3Server, tmp_path: Path) -> None:
    uri = published("command")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "inference.cli", "fetch", "--uri", uri, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    good = run("--sha256", sha256_of(uri).upper(), "--to", str(tmp_path), "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["folder"] == str(tmp_path / "command" / "1")
    entries = [f"--model={wanted(published(name), name)}" for name in ("both", "each")]
    command = [sys.executable, "-m", "inference.cli", "fetch", f"--to={tmp_path}", *entries]
    several = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line.split(":")[0] for line in several.stdout.splitlines()] == [
        str(tmp_path / name / "1") for name in ("both", "each")
    ]
    bad = run("--sha256", "0" * 64, "--to", str(tmp_path / "b"))
    assert bad.returncode == 2, "another try finds the same"
    assert "refused" in bad.stderr


def wanted(uri: str, name: str, version: str = "1") -> str:
    """As the chart writes an entry of the map."""
    return f"{name}/{version}={uri}@sha256:{sha256_of(uri)}"


async def test_all_models_of_a_map_are_fetched_and_checked(s3: S3Server, tmp_path: Path) -> None:
    texts = [wanted(published(name), name) for name in ("one", "two")]
    parsed = [fetch.parse_wanted(text) for text in texts]
    found = await fetch.fetch_all(parsed, tmp_path)
    assert [(one.name, one.version) for one in found] == [("one", "1"), ("two", "1")]
    assert names_in(tmp_path) == ["one", "two"]
    other = fetch.parse_wanted(texts[1].replace(sha256_of("s3://models/two/1"), "0" * 64))
    with pytest.raises(ModelError, match=r"two/1: model\.json has sha256"):
        await fetch.fetch_all([parsed[0], other], tmp_path)


async def test_a_model_under_another_name_than_in_git_is_refused(
    s3: S3Server, tmp_path: Path
) -> None:
    uri = published("renamed")
    entry = fetch.parse_wanted(wanted(uri, "iris"))
    with pytest.raises(ModelError, match=r"holds renamed 1 by .*, but iris 1 was asked"):
        await fetch.fetch_all([entry], tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "iris", "iris/1", f"iris=s3://m/i/1@sha256:{'0' * 64}", "iris/1=s3://m/i/1",
     f"iris/1=@sha256:{'0' * 64}", f"iris/1=s3://m/i/1@sha256:{'0' * 63}",
     f"/1=s3://m/i/1@sha256:{'0' * 64}"],
)  # fmt: skip
def test_an_entry_that_lacks_a_part_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="is not NAME/VERSION=URI@sha256:HEX"):
        fetch.parse_wanted(text)


async def test_a_server_loads_from_s3_and_follows_it(
    s3: S3Server, serve: Serve, tmp_path: Path
) -> None:
    store = fetch.open_store("s3://models/live")
    model = small_models.affine(1, 1.0)

    def put(version: str, offset: float) -> None:
        nonlocal model
        model = small_models.affine(1, offset)
        document = {"name": "m", "version": version, "sha256": hashlib.sha256(model).hexdigest()}
        store.put(f"m/{version}/model.onnx", model)
        store.put(f"m/{version}/model.json", json.dumps(document).encode())

    put("1", 1.0)
    store.put("m/9/model.onnx", model)  # unfinished: no manifest yet
    zero = tensor("x", "FP32", [1, 2], [0, 0])
    settings = {"cache_folder": str(tmp_path / "cache"), "repository_poll_seconds": 0.05}
    async with serve(at="s3://models/live", **settings) as running:
        assert (await running.infer("m", zero)).json()["outputs"][0]["data"] == [1.0, 1.0]
        put("2", 2.0)
        await until(lambda: len(running.state.registry.all_serving()) == 2)
        assert (await running.infer("m", zero)).json()["outputs"][0]["data"] == [2.0, 2.0]
        store.put("m/3/model.json", json.dumps({"name": "m", "version": "3"}).encode())
        await until(lambda: "3" in running.state.registry.entries["m"].failures)
        assert "does not exist" in running.state.registry.entries["m"].failures["3"]
        assert (await running.infer("m", zero)).json()["model_version"] == "2"


async def test_a_repository_that_cannot_be_reached_is_tried_again(
    s3: S3Server, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published("late")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    settings = {"cache_folder": str(tmp_path / "cache"), "models": ["late"]}
    async with serve(at="s3://models", wait_ready=False, **settings) as running:
        await until(lambda: "model repository" in running.health.reasons.get("models", ""))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
        await until(lambda: running.health.readiness()[0] == 200)


async def test_names_that_would_leave_the_folder_are_not_models(tmp_path: Path) -> None:
    for name in (".hidden", "ok", "a b"):
        (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    found = await FolderRepository(tmp_path).scan()
    assert [(model.name, model.version) for model in found] == [("ok", "1")]
    assert await FolderRepository(tmp_path / "absent").scan() == []


async def test_a_manifest_in_the_wrong_place_is_refused(s3: S3Server, tmp_path: Path) -> None:
    published("moved", "1")
    store = fetch.open_store("s3://models/elsewhere")
    source = fetch.open_store("s3://models/moved")
    for name in ("model.onnx", "model.json"):
        store.put(f"other/1/{name}", bytes(source.get(f"1/{name}").bytes()))
    repository = S3Repository("s3://models/elsewhere", tmp_path, timeout=10)
    (found,) = await repository.scan()
    with pytest.raises(ModelError, match="says it is moved 1"):
        await repository.folder_of(found)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".."])
async def test_a_manifest_cannot_name_a_folder_outside(
    s3: S3Server, tmp_path: Path, name: str
) -> None:
    store = fetch.open_store("s3://models/evil")
    store.put("m/1/model.onnx", MODEL)
    document = {"name": name, "version": "1", "sha256": SHA256}
    store.put("m/1/model.json", json.dumps(document).encode())
    with pytest.raises(ModelError, match="name"):
        await fetch.fetch("s3://models/evil/m/1", tmp_path / "to")


@pytest.mark.parametrize(
    ("versions", "expected"),
    [(["9", "10"], "10"), (["a", "b"], "b"), (["zeta", "2"], "2"), (["1"], "1")],
)
def test_the_newest_version_is_the_largest_number(versions: list[str], expected: str) -> None:
    assert newest(versions) == expected


async def test_weights_in_files_of_their_own_come_along_and_serve(
    s3: S3Server, serve: Serve, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    model = small_models.with_external_data(made, MODEL)
    weights = (made / "model.onnx.data").read_bytes()
    assert len(model) + len(weights) > len(model) > 0
    digest = hashlib.sha256(weights).hexdigest()
    uri = published("apart", model=model, data_files={"model.onnx.data": digest})
    store = fetch.open_store("s3://models")
    with pytest.raises(ModelError, match=r"apart/1/model\.onnx\.data does not exist"):
        await fetch.fetch(uri, tmp_path / "to", attempts=1)
    store.put("apart/1/model.onnx.data", weights[:-1] + b"x")
    with pytest.raises(ModelError, match=rf"model\.onnx\.data has sha256 .* says {digest}"):
        await fetch.fetch(uri, tmp_path / "to")
    store.put("apart/1/model.onnx.data", weights)
    fetched = await fetch.fetch(uri, tmp_path / "to")
    assert fetched.bytes_read == len(model) + len(weights)
    assert names_in(fetched.folder) == ["model.json", "model.onnx", "model.onnx.data"]
    assert (await fetch.fetch(uri, tmp_path / "to")).bytes_read == 0
    (fetched.folder / "model.onnx.data").write_bytes(b"")
    assert (await fetch.fetch(uri, tmp_path / "to")).bytes_read > 0
    async with serve(at=str(tmp_path / "to")) as running:
        answer = await running.infer("apart", tensor("x", "FP32", [1, 2], [1, 2]))
        assert answer.json()["outputs"][0]["data"] == [3, 5]
