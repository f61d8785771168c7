"""inference.models.registry: loading, refusing, swapping and letting go, also under load."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from onnx import TensorProto, helper
from PIL import Image

from inference.errors import ModelError
from inference.models import registry
from inference.models.load import read
from inference.models.onnx_model import OnnxModel
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from inference.repository import manifest
from inference.repository.layout import Found
from inference.settings import InferenceSettings
from tests.inference import small_models
from tests.inference.conftest import Gate, Running, Serve, hold_model, tensor, until, until_seen

ZERO = tensor("x", "FP32", [1, 2], [0, 0])


async def answer_of(running: Running, model: str = "affine") -> float:
    answer = await running.infer(model, ZERO)
    assert answer.status_code == 200, answer.text
    value: float = answer.json()["outputs"][0]["data"][0]
    return value


async def test_load_and_unload_without_a_failed_request(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine(1, 1.0))
    async with serve(repository_control=True) as running:
        seen: list[float] = []
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                seen.append(await answer_of(running))

        callers = [asyncio.create_task(caller()) for _ in range(4)]
        for version in range(2, 6):
            small_models.put(
                repository, "affine", str(version), small_models.affine(1, float(version))
            )
            loaded = await running.client.post("/v2/repository/models/affine/load")
            assert loaded.status_code == 200
            count = len(seen)
            await until(lambda count=count: len(seen) > count + 8)  # type: ignore[misc]
            assert seen[-1] == float(version)
        stop.set()
        await asyncio.gather(*callers)
        assert set(seen) == {1.0, 2.0, 3.0, 4.0, 5.0}

        assert (await running.client.post("/v2/repository/models/affine/unload")).status_code == 200
        gone = await running.infer("affine", ZERO)
        assert gone.status_code == 404
        assert "unloaded" in gone.json()["error"]
        assert (await running.client.get("/v2/health/ready")).status_code == 200
        await running.client.post("/v2/repository/models/affine/load")
        assert await answer_of(running) == 5.0
        unknown = await running.client.post("/v2/repository/models/none/load")
        assert unknown.status_code == 404


async def test_unloading_finishes_what_is_under_way(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "slow", "1", small_models.slow(1), batching={"max_batch_size": 1})
    # nobody is refused for having waited, however long the machine takes to unload
    async with serve(repository_control=True, target_wait_ms=60_000) as running:
        (served,) = running.state.registry.all_serving()
        model = hold_model(served)
        row = tensor("x", "FP32", [1, 4], [1, 2, 3, 4])
        calls = [asyncio.create_task(running.infer("slow", row)) for _ in range(4)]
        await until(lambda: served.leases == 4)
        unloading = asyncio.create_task(running.client.post("/v2/repository/models/slow/unload"))
        await until(lambda: running.state.registry.all_serving() == [])
        assert served.leases == 4
        model.opened.set()
        assert (await unloading).status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [200] * 4


async def test_a_changed_version_is_swapped_in_place(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine(1, 1.0))
    async with serve(repository_poll_seconds=0.02) as running:
        assert await answer_of(running) == 1.0
        small_models.put(repository, "affine", "1", small_models.affine(1, 7.0))
        small_models.put(repository, "other", "1", small_models.affine(1, 3.0))
        await until(lambda: len(running.state.registry.all_serving()) == 2)
        await until_seen(lambda: answers(running, 7.0))
        assert await answer_of(running, "other") == 3.0


async def answers(running: Running, value: float) -> bool:
    return await answer_of(running) == value


async def unready(running: Running, why: str) -> bool:
    answer = await running.client.get("/readyz")
    return answer.status_code == 503 and why in answer.json().get("models", "")


async def test_what_failed_is_not_tried_at_every_look_but_when_it_changes(
    serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    real = registry.read

    def counted(folder: Path, found: Found, **more: Any) -> Any:
        tries.append(found.version)
        return real(folder, found, **more)

    monkeypatch.setattr(registry, "read", counted)
    small_models.put(repository, "affine", "1", small_models.affine(1, 1.0))
    small_models.put(repository, "affine", "2", b"broken")
    async with serve() as running:
        for _ in range(3):
            await running.state.registry.refresh()
        assert tries == ["1", "2"]
        assert "cannot load" in running.state.registry.entries["affine"].failures["2"]
        small_models.put(repository, "affine", "2", small_models.affine(1, 2.0))
        await running.state.registry.refresh()
        assert tries == ["1", "2", "2"]
        assert await answer_of(running) == 2.0


PIXELS = [
    {"transform": "decode_image", "mode": "L"},
    {"transform": "resize", "width": 3, "height": 1},
]
BROKEN: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "corrupt": (b"this is no model", {}, "ONNX Runtime cannot load the model"),
    "cut": (small_models.affine()[:-20], {}, "ONNX Runtime cannot load the model"),
    "wrong sha256": (small_models.affine(), {"sha256": "0" * 64}, "has sha256"),
    "wrong input name": (
        small_models.affine(),
        {"inputs": [{"name": "q", "datatype": "FP32", "shape": [-1, 2]}]},
        "model.json lists inputs ['q'], model.onnx has ['x']",
    ),
    "wrong shape": (
        small_models.affine(),
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]},
        "model.json says input 'x' is FP32 [-1, 3], model.onnx has FP32 [-1, 2]",
    ),
    "wrong datatype": (
        small_models.affine(),
        {"outputs": [{"name": "y", "datatype": "INT64", "shape": [-1, 2]}]},
        "model.json says output 'y' is INT64",
    ),
    "unknown datatype": (
        small_models.affine(),
        {"inputs": [{"name": "x", "datatype": "FP31", "shape": [-1, 2]}]},
        "inputs.0.datatype",
    ),
    "unknown transform": (
        small_models.affine(),
        {"preprocess": [{"transform": "decode_imagee"}]},
        "decode_imagee",
    ),
    "misspelt batching": (
        small_models.affine(), {"batching": {"max_batchsize": 4}}, "max_batchsize"
    ),
    "batching that would mix rows": (
        small_models.row_mixing(), {"batching": {"enabled": True}}, "asks for batching, but node"
    ),
    "preprocess of another shape": (
        small_models.affine(),
        {"preprocess": [*PIXELS, {"transform": "scale"}, {"transform": "reshape", "shape": [3]}]},
        "preprocess: input 'x' has shape [-1, 2], prepared images have [1, 3]",
    ),
    "preprocess of another datatype": (
        small_models.affine(),
        {"preprocess": [*PIXELS, {"transform": "reshape", "shape": [3]}]},
        "preprocess gives UINT8, input 'x' is FP32",
    ),
    "preprocess that cannot be run": (
        small_models.affine(),
        {"preprocess": [*PIXELS, {"transform": "scale"}, {"transform": "reshape", "shape": [2]}]},
        "preprocess: reshape",
    ),
    "another name": (small_models.affine(), {"name": "other"}, "model.json says it is other"),
}  # fmt: skip


async def test_what_cannot_be_loaded_leaves_the_old_one_serving_and_says_why(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine(1, 1.0))
    async with serve(repository_control=True) as running:
        for name, (model, manifest, why) in BROKEN.items():
            small_models.put(repository, "affine", "2", model, **manifest)
            answer = await running.client.post("/v2/repository/models/affine/load")
            assert answer.status_code == 400, name
            assert why in answer.json()["error"], (name, answer.text)
            assert await answer_of(running) == 1.0
            two = await running.infer("affine/versions/2", ZERO)
            assert two.status_code == 503, name
            assert why in two.json()["error"]
        assert (await running.client.get("/v2/health/ready")).status_code == 200
        (_, broken) = (await running.client.post("/v2/repository/index")).json()
        assert broken["state"] == "UNAVAILABLE"
        assert "another" in broken["reason"] or "says it is other" in broken["reason"]
        assert "inference_model_failed" in (await running.client.get("/metrics")).text


async def test_a_version_broken_in_place_goes_on_serving_as_it_was(
    serve: Serve, repository: Path
) -> None:
    folder = small_models.put(repository, "affine", "1", small_models.affine(1, 1.0))
    async with serve(repository_control=True) as running:
        (folder / "model.onnx").write_bytes(b"broken now")
        assert (await running.client.post("/v2/repository/models/affine/load")).status_code == 400
        assert await answer_of(running) == 1.0


@pytest.mark.parametrize("name", ["corrupt", "wrong sha256", "wrong shape"])
async def test_a_pod_with_a_broken_model_never_gets_ready_and_says_why(
    serve: Serve, repository: Path, name: str
) -> None:
    model, manifest, why = BROKEN[name]
    small_models.put(repository, "affine", "1", model, **manifest)
    async with serve(wait_ready=False) as running:
        await until_seen(lambda: unready(running, why))
        assert (await running.client.get("/livez")).status_code == 200
        assert (await running.client.get("/v2/health/ready")).status_code == 503
        assert (await running.client.get("/ping")).status_code == 503
        asked = await running.infer("affine", ZERO)
        assert asked.status_code == 503
        assert why in asked.json()["error"]


async def test_an_empty_repository_is_not_ready(serve: Serve, repository: Path) -> None:
    async with serve(wait_ready=False) as running:
        await until_seen(lambda: unready(running, "there is no model"))


async def test_a_model_that_is_asked_for_and_absent_is_not_ready(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve(models=["affine", "absent"], wait_ready=False) as running:
        await until_seen(lambda: unready(running, "absent"))
        assert await answer_of(running) == 1.0


async def test_a_pinned_version_that_is_absent_is_not_ready(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve(pinned_versions={"affine": "3"}, wait_ready=False) as running:
        await until_seen(lambda: unready(running, "pinned"))
        assert (await running.infer("affine", ZERO)).status_code == 503
        assert (await running.infer("affine/versions/1", ZERO)).status_code == 200


async def test_a_pinned_version_that_goes_away_goes_on_serving_and_says_why(
    serve: Serve, repository: Path
) -> None:
    """Found: it was retired and nothing took its place: 503 from a server that served."""
    for version in ("1", "2"):
        small_models.put(repository, "affine", version, small_models.affine(1, float(version)))
    async with serve(pinned_versions={"affine": "1"}) as running:
        assert await answer_of(running) == 1.0
        shutil.rmtree(repository / "affine" / "1")
        await running.state.registry.refresh()
        assert await answer_of(running) == 1.0
        index = (await running.client.post("/v2/repository/index")).json()
        assert [(row["version"], row["state"], row["reason"]) for row in index] == [
            ("1", "READY", "pinned, but not in the repository"),
            ("2", "READY", ""),
        ]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
async def test_a_pod_gets_ready_when_a_caller_loads_what_was_missing(
    serve: Serve, repository: Path, protocol: str
) -> None:
    """Found: readiness was asked at the start and at each poll, not after a load."""
    small_models.put(repository, "affine", "1", b"broken")

    async def load(running: Running) -> None:
        if protocol == "rest":
            await running.client.post("/v2/repository/models/affine/load")
            return
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/RepositoryModelLoad",
                pb.RepositoryModelLoadRequest.SerializeToString,
                pb.RepositoryModelLoadResponse.FromString,
            )
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call(pb.RepositoryModelLoadRequest(model_name="affine"))

    async with serve(repository_control=True, wait_ready=False) as running:
        await until_seen(lambda: unready(running, "cannot load the model"))
        small_models.put(repository, "affine", "1", small_models.affine(), sha256="0" * 64)
        await load(running)
        assert await unready(running, "has sha256")
        small_models.put(repository, "affine", "1", small_models.affine())
        await load(running)
        assert (await running.client.get("/readyz")).status_code == 200


async def test_a_repository_that_cannot_be_read_is_a_503(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: S3 being down was the caller's fault, a 400."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        settings = {"at": "s3://models/all", "repository_control": True, "wait_ready": False}
        async with serve(**settings) as running:
            for path in ("index", "models/affine/load"):
                answer = await running.client.post(f"/v2/repository/{path}")
                assert answer.status_code == 503, answer.text
                assert "s3://models/all" in answer.json()["error"]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
                call = channel.unary_unary(
                    "/inference.GRPCInferenceService/RepositoryIndex",
                    pb.RepositoryIndexRequest.SerializeToString,
                    pb.RepositoryIndexResponse.FromString,
                )
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call(pb.RepositoryIndexRequest())
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_model_is_warm_before_it_is_ready(
    serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the warm-up's runs is held: until it is over nobody is sent here."""
    small_models.put(repository, "affine", "1", small_models.affine())
    gate = Gate()
    real, runs = OnnxModel.run, []

    def run(model: OnnxModel, outputs: Any, feeds: Any) -> Any:
        runs.append(len(feeds["x"]))
        return (gate.around(real) if runs.count(64) == 3 else real)(model, outputs, feeds)

    monkeypatch.setattr(OnnxModel, "run", run)
    async with serve(warmup_runs=3, max_batch_size=64, wait_ready=False) as running:
        await until(lambda: bool(gate.threads))
        assert await unready(running, "loading")
        assert not running.state.registry.all_serving()
        assert (await running.infer("affine", ZERO)).status_code == 404
        assert gate.loop_thread not in gate.threads
        gate.opened.set()
        await until(lambda: running.health.readiness()[0] == 200)
        assert runs[-6:] == [1, 1, 1, 64, 64, 64]
        assert await answer_of(running) == 1.0


async def test_images_of_a_shape_that_the_model_does_not_take_are_a_400(
    serve: Serve, repository: Path
) -> None:
    """Found: where the model does not batch they were reshaped by force: 500."""
    steps = [{"transform": "decode_image", "mode": "L"}, {"transform": "scale"}]
    for name, rows in (("many", "rows"), ("one", 1)):
        model = small_models.identity("FP32", [rows, 2, 2])
        small_models.put(repository, name, "1", model, preprocess=steps)
    small_models.put(repository, "any", "1", small_models.identity("FP32", ["n", "h", "w"]),
                     preprocess=steps)  # fmt: skip

    def picture(width: int) -> str:
        file = io.BytesIO()
        Image.new("L", (width, 2)).save(file, format="PNG")
        return base64.b64encode(file.getvalue()).decode()

    async with serve() as running:
        for name in ("many", "one"):
            good = await running.infer(name, tensor("x", "BYTES", [1], [picture(2)]))
            assert good.json()["outputs"][0]["shape"] == [1, 2, 2]
            bad = await running.infer(name, tensor("x", "BYTES", [1], [picture(3)]))
            assert bad.status_code == 400
            assert "input 'x' has shape" in bad.json()["error"]
            assert "[1, 2, 3]" in bad.json()["error"]
        answers = await asyncio.gather(
            *(running.infer("any", tensor("x", "BYTES", [1], [picture(width)]))
              for width in (2, 3, 2, 3, 4))
        )  # fmt: skip
        assert [answer.json()["outputs"][0]["shape"][2] for answer in answers] == [2, 3, 2, 3, 4]


async def test_a_model_without_a_manifest_is_served_by_its_folder(
    serve: Serve, repository: Path
) -> None:
    """Its sha256 is that of the file, for want of one that was promised."""
    folder = small_models.put(repository, "bare", "1", small_models.affine())
    (folder / "model.json").unlink()
    async with serve() as running:
        assert await answer_of(running, "bare") == 1.0
        metadata = (await running.client.get("/v2/models/bare")).json()
        digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        assert metadata["properties"]["sha256"] == digest


def loaded(repository: Path, name: str, model: bytes, **manifest: Any) -> Any:
    folder = small_models.put(repository, name, "1", model, **manifest)
    return read(folder, Found(name, "1", ""), threads=1, settings=InferenceSettings())


def test_rows_that_are_not_independent_are_not_batched(repository: Path) -> None:
    mixing = loaded(repository, "mixing", small_models.row_mixing())
    assert not mixing.batching.batching
    assert "ReduceMean" in mixing.batching.reason
    assert loaded(repository, "affine", small_models.affine()).batching.batching
    fixed = loaded(repository, "fixed", small_models.identity("FP32", [3, 2]))
    assert not fixed.batching.batching
    off = loaded(repository, "off", small_models.affine(), batching={"enabled": False})
    assert not off.batching.batching


async def test_models_that_are_not_batched_answer_each_request_alone(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "mixing", "1", small_models.row_mixing())
    small_models.put(repository, "fixed", "1", small_models.identity("FP32", [3, 2]))
    small_models.put(repository, "scalar", "1", small_models.identity("FP32", []))
    async with serve() as running:
        rows = [[1.0, 2.0], [3.0, 6.0]]
        answers = await asyncio.gather(
            *(running.infer("mixing", tensor("x", "FP32", [2, 2], rows)) for _ in range(5))
        )
        for answer in answers:
            assert answer.json()["outputs"][0]["data"] == [-1.0, -2.0, 1.0, 2.0]
        fixed = await running.infer("fixed", tensor("x", "FP32", [3, 2], list(range(6))))
        assert fixed.json()["outputs"][0]["data"] == [0, 1, 2, 3, 4, 5]
        scalar = await running.infer("scalar", tensor("x", "FP32", [], [7]))
        assert scalar.json()["outputs"][0]["data"] == [7]


def test_a_model_of_maps_is_refused_with_the_fix(repository: Path) -> None:
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression().fit(np.eye(2, dtype=np.float32), [0, 1])
    model = to_onnx(classifier, np.zeros((1, 2), np.float32), target_opset=17).SerializeToString()
    with pytest.raises(ModelError, match="zipmap"):
        loaded(repository, "maps", model)


def test_a_manifest_that_is_no_json_is_named(repository: Path) -> None:
    folder = small_models.put(repository, "affine", "1", small_models.affine())
    (folder / "model.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match=r"model\.json"):
        read(folder, Found("affine", "1", ""), threads=1, settings=InferenceSettings())


async def test_weights_that_are_not_the_manifests_are_refused(
    serve: Serve, repository: Path
) -> None:
    folder = repository / "apart" / "1"
    model = small_models.with_external_data(folder, small_models.affine())
    small_models.put(repository, "apart", "1", model, data_files={"model.onnx.data": "0" * 64})
    async with serve(wait_ready=False) as running:
        await until(lambda: bool(running.state.registry.entries))
        (why,) = running.state.registry.entries["apart"].failures.values()
        assert "model.onnx.data has sha256" in why
        assert "0" * 64 in why


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "../x", "a/b", ".hidden", ""])
def test_a_data_file_lies_beside_the_model(name: str) -> None:
    document = {"name": "a", "version": "1", "data_files": {name: "0" * 64}}
    with pytest.raises(ModelError, match="data_files"):
        manifest.parse(json.dumps(document).encode(), where="model.json")


def test_a_model_with_bf16_at_its_border_is_refused_with_the_fix(repository: Path) -> None:
    kind = (TensorProto.BFLOAT16, ["rows", 2])
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    folder = small_models.put(
        repository, "bf", "1", small_models.model(nodes, {"x": kind}, {"y": kind})
    )
    with pytest.raises(ModelError, match=r"'x' is BF16.*Cast to FP32"):
        OnnxModel(folder / "model.onnx", threads=1)
