"""What one caller sends wrong is that caller's fault, and named; it closes no model to others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
from onnx import TensorProto, helper

from inference.errors import BadRequest, InputsFailed, ModelError, ModelFailed
from inference.models.known_input import LARGEST, LOOK_EVERY, KnownInput
from inference.models.onnx_model import OnnxModel, check_labels
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from inference.repository.manifest import TensorSpec
from inference.repository.manifest import parse as parse_manifest
from tests.inference import small_models
from tests.inference.conftest import Running, Serve, hold_model, tensor, until
from tests.inference.protocols.test_grpc_server import Client, raw

ROWS = (TensorProto.FLOAT, ["rows", "n"])
SUM = small_models.model(
    [helper.make_node("Add", ["a", "b"], ["y"])], {"a": ROWS, "b": ROWS}, {"y": ROWS}
)
WHOLE = (TensorProto.INT64, ["rows"])
QUOTIENT = small_models.model(
    [helper.make_node("Div", ["a", "b"], ["y"])], {"a": WHOLE, "b": WHOLE}, {"y": WHOLE}
)
MEAN = small_models.model(
    [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)],
    {"x": (TensorProto.FLOAT, ["rows", "cols"])},
    {"y": (TensorProto.FLOAT, ["rows"])},
)
LOG = small_models.model([helper.make_node("Log", ["x"], ["y"])], {"x": ROWS}, {"y": ROWS})
NEVER_FINITE = small_models.model(
    [
        helper.make_node("Abs", ["x"], ["above"]),
        helper.make_node("Neg", ["above"], ["below"]),
        helper.make_node("Log", ["below"], ["y"]),
    ],
    {"x": ROWS},
    {"y": ROWS},
)

A, WRONG_B, B = (
    tensor("a", "FP32", [1, 2], [1, 2]),
    tensor("b", "FP32", [1, 3], [1, 2, 3]),
    tensor("b", "FP32", [1, 2], [3, 4]),
)
SAID = "the model could not run on these inputs"


async def every_way(running: Running, model: str, inputs: list[dict[str, Any]]) -> list[Any]:
    """The same request over the short way, the long one, V1 and /invocations."""
    body = orjson.dumps({"inputs": inputs})
    rows = {
        "inputs": {
            each["name"]: np.array(each["data"]).reshape(each["shape"]).tolist() for each in inputs
        }
    }
    form = {"content-type": "application/json"}
    client = running.client
    return [
        await client.post(f"/v2/models/{model}/infer", content=body, headers=form),
        await client.post(f"/v2/models/{model}/infer?a=1", content=body, headers=form),
        await client.post(f"/v1/models/{model}:predict", json=rows),
        await client.post("/invocations", content=body, headers=form),
    ]


async def test_inputs_that_do_not_go_together_are_the_callers_fault(
    serve: Serve, repository: Path
) -> None:
    """Found: 500, and 20 of them closed the model to everybody at the proxy's breaker."""
    small_models.put(repository, "sum", "1", SUM)
    async with serve() as running, Client(running) as client:
        for answer in await every_way(running, "sum", [A, WRONG_B]):
            assert answer.status_code == 400, answer.text
            assert SAID in answer.json()["error"]
        asked = pb.ModelInferRequest(
            model_name="sum",
            inputs=[
                {"name": "a", "datatype": "FP32", "shape": [1, 2],
                 "contents": {"fp32_contents": [1, 2]}},
                {"name": "b", "datatype": "FP32", "shape": [1, 3],
                 "contents": {"fp32_contents": [1, 2, 3]}},
            ],
        )  # fmt: skip
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.call("ModelInfer", asked)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert SAID in (refused.value.details() or "")
        good = await running.infer("sum", A, B)
        assert good.json()["outputs"][0]["data"] == [4.0, 6.0]
        (served,) = running.state.registry.all_serving()
        assert served.statistics.failures["inputs_failed"] == 5
        assert served.statistics.failures["model_failed"] == 0


async def test_a_division_by_zero_in_a_batch_fails_its_own_request_alone(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "quotient", "1", QUOTIENT, samples=[
        {"inputs": [tensor("a", "INT64", [1], [6]), tensor("b", "INT64", [1], [3])]}
    ])  # fmt: skip
    async with serve() as running:
        (served,) = running.state.registry.all_serving()
        gate = hold_model(served)
        asks = [
            asyncio.create_task(
                running.infer("quotient", tensor("a", "INT64", [1], [12]),
                              tensor("b", "INT64", [1], [by]))
            )
            for by in (1, 2, 0, 3)
        ]  # fmt: skip
        await until(lambda: served.batcher.running_batches + served.batcher.queued_rows >= 1)
        gate.opened.set()
        answers = [await ask for ask in asks]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 200]
    assert SAID in answers[2].json()["error"]
    assert [a.json()["outputs"][0]["data"] for a in answers if a.is_success] == [[12], [6], [4]]


async def test_a_model_that_fails_on_what_it_answered_before_is_the_servers_fault(
    serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_models.put(repository, "sum", "1", SUM)
    async with serve() as running:
        (served,) = running.state.registry.all_serving()
        session = served.model._session

        class Broken:
            def run(self, *_: object) -> None:
                session.run(None, {"a": np.ones((1, 2), "f"), "b": np.ones((1, 3), "f")})

        monkeypatch.setattr(served.model, "_session", Broken())
        answer = await running.infer("sum", A, B)
        assert answer.status_code == 500
        assert "the model failed" in answer.json()["error"]
        assert served.statistics.failures["model_failed"] == 1


def test_the_known_input_is_tried_every_few_seconds_at_most() -> None:
    now, tried, broken = [0.0], [], False

    def run(feeds: dict[str, Any]) -> None:
        tried.append(feeds["x"].tolist())
        if broken:
            raise RuntimeError

    known = KnownInput(run, clock=lambda: now[0])
    assert not known.still_runs()  # nothing was ever answered
    sent = np.array([1.0])
    known.note({"x": sent}, [np.array([np.nan])])
    sent[0] = 7  # a copy is kept
    assert known.still_runs()
    assert known.still_runs()
    assert tried == [[1.0]]
    broken = True
    now[0] = LOOK_EVERY
    assert not known.still_runs()
    assert len(tried) == 2
    known.note({"x": np.array([2.0])}, [np.array([np.inf])])  # no better than the first
    known.note({"x": np.zeros(LARGEST // 8 + 1)}, [np.array([1.0])])  # too large
    assert not known.finite
    known.note({"x": np.array([3.0])}, [np.array([1.0])])
    assert known.finite
    now[0] = 2 * LOOK_EVERY
    assert not known.still_runs()
    assert tried[-1] == [3.0]


async def test_numbers_that_json_cannot_say_are_the_fault_of_who_made_them(
    serve: Serve, repository: Path
) -> None:
    """Found: under `error` one caller's -1 for a logarithm counted as the server failing."""
    sample = {"inputs": [tensor("x", "FP32", [1, 2], [1, 2])]}
    small_models.put(repository, "log", "1", LOG, samples=[sample])
    small_models.put(repository, "never", "1", NEVER_FINITE)
    async with serve(non_finite_outputs="error") as running:
        bad = tensor("x", "FP32", [1, 2], [-1, 2])
        assert (await running.infer("log", bad)).status_code == 400
        assert (await running.infer("never", bad)).status_code == 500


@pytest.mark.parametrize("shape", [[8_000_000, 0], [65_537, 0], [0, 2**40]])
async def test_a_shape_without_elements_costs_what_was_sent(
    serve: Serve, repository: Path, shape: list[int]
) -> None:
    """Found: 85 bytes were answered with 32 MB, a mean for each row of nothing."""
    small_models.put(repository, "mean", "1", MEAN)
    client: Any
    async with serve() as running, Client(running) as client:
        body = {"inputs": [tensor("x", "FP32", shape, [])]}
        binary = orjson.dumps(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape,
                         "parameters": {"binary_data_size": 0}}]}
        )  # fmt: skip
        head = {"inference-header-content-length": str(len(binary))}
        asks = [
            running.client.post("/v2/models/mean/infer", json=body),
            running.client.post("/v2/models/mean/infer?a", json=body),
            running.client.post("/v2/models/mean/infer", content=binary, headers=head),
            running.client.post("/invocations", json=body),
        ]
        for answer in await asyncio.gather(*asks):
            assert answer.status_code == 400, answer.text[:200]
            assert f"input 'x': shape {shape} holds no elements" in answer.json()["error"]
        plain = pb.ModelInferRequest(
            model_name="mean", inputs=[{"name": "x", "datatype": "FP32", "shape": shape}]
        )
        in_raw = pb.ModelInferRequest(
            model_name="mean", inputs=plain.inputs, raw_input_contents=[b""]
        )
        for request in (plain, in_raw):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.call("ModelInfer", request)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "holds no elements" in (refused.value.details() or "")


async def test_a_small_shape_without_elements_is_served(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "mean", "1", MEAN)
    async with serve() as running:
        answer = await running.infer("mean", tensor("x", "FP32", [3, 0], []))
        assert answer.json()["outputs"][0]["shape"] == [3]


async def test_another_signature_is_refused_by_name(serve: Serve, repository: Path) -> None:
    """Found: `signature_name` was ignored, and the one signature answered."""
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        for name, status in (("serving_default", 200), (None, 200), ("regress", 400), (3, 400)):
            asked = {"instances": [[1, 2]], "signature_name": name}
            for path in ("/v1/models/affine:predict", "/invocations"):
                answer = await running.client.post(path, json=asked)
                assert answer.status_code == status, (path, name, answer.text)
                if status == 400:
                    assert f"signature_name is {name!r}" in answer.json()["error"]


async def test_what_is_missing_or_out_of_range_is_said(serve: Serve, repository: Path) -> None:
    """Found: "has shape [-1, 2], got [1, 1]", and that 2**64 has a fraction."""
    small_models.put(repository, "affine", "1", small_models.affine())
    small_models.put(repository, "whole", "1", small_models.identity("INT64"))
    nameless = {"inputs": [{"datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    async with serve(default_model="affine") as running:
        for path in ("/v2/models/affine/infer", "/invocations"):
            answer = await running.client.post(path, json=nameless)
            assert answer.status_code == 400
            assert "inputs[].name is missing: model 'affine' takes ['x']" in answer.json()["error"]
        answer = await running.client.post("/v1/models/affine:predict", json=nameless)
        assert answer.status_code == 400
        assert "/v2/models/affine/infer" in answer.json()["error"]
        for number, said in (
            (2**64, "out of range for INT64, which takes -9223372036854775808 to"),
            (2**63, "out of range for INT64, which takes -9223372036854775808 to"),
            (-(2**70), "out of range for INT64"),
            (1.5, "no INT64: it takes integers without a fraction"),
        ):
            whole = '"name":"x","datatype":"INT64","shape":[1,2]'
            body = f'{{"inputs":[{{{whole},"data":[0,{number}]}}]}}'
            answer = await running.client.post("/v2/models/whole/infer", content=body)
            assert answer.status_code == 400
            assert said in answer.json()["error"], number


async def test_the_timeout_in_metadata_counts_where_it_is_the_shorter(
    serve: Serve, repository: Path
) -> None:
    """Found: over gRPC only the deadline counted, and `x-request-timeout` said nothing."""
    small_models.put(repository, "affine", "1", small_models.affine())
    asked = raw("affine", np.ones((1, 2), np.float32), "FP32")
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    async with serve() as running, Client(running) as client:
        engine, seen = running.state.engine, []
        timeout = engine.timeout
        engine.timeout = lambda call, request=None: (  # type: ignore[method-assign]
            seen.append(call) or timeout(call, request)  # type: ignore[func-returns-value]
        )
        for said, deadline, expected in (
            ("2.5", None, 2.5), ("2500ms", 60, 2.5), ("300", 20, 20), ("0", 20, 20),
            (None, 20, 20),
        ):  # fmt: skip
            metadata = [("x-request-id", "mine"), ("traceparent", trace)]
            metadata += [("x-request-timeout", said)] if said else []
            seen.clear()
            call = client.call("ModelInfer", asked, metadata=metadata, timeout=deadline)
            await call
            assert seen[0].timeout == pytest.approx(expected, abs=5 if expected == 20 else 0.001)
            assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
            assert seen[0].caller is not None
            assert seen[0].caller.trace_id == "a" * 32
        for wrong in ("soon", "-1", "1d"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.call("ModelInfer", asked, metadata=[("x-request-timeout", wrong)])
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert f"X-Request-Timeout is '{wrong}'" in (refused.value.details() or "")
        assert engine.in_flight == 0


@pytest.mark.parametrize(
    ("field", "meant"),
    [("lables", "labels"), ("Labels", "labels"), ("label", "labels"), ("sample", "samples"),
     ("pre-process", "preprocess"), ("data_file", "data_files"), ("batchin", "batching"),
     ("colums", "columns"), ("SHA256", "sha256")],
)  # fmt: skip
def test_a_misspelt_field_of_the_manifest_is_named(field: str, meant: str) -> None:
    """Found: READY, and every answer without its labels."""
    document = orjson.dumps({"name": "m", "version": "1", field: ["a"]})
    with pytest.raises(ModelError, match=f"no field '{field}': did you mean '{meant}'"):
        parse_manifest(document, where="model.json")


def test_fields_for_people_and_registries_stay_free() -> None:
    more = ("created", "metrics", "training", "dataset", "author", "license", "description",
            "framework", "task", "tags", "owner", "uri", "signature", "opset", "git_sha", "notes",
            "threshold", "model_type", "run_id", "parameters", "features", "target")  # fmt: skip
    document = orjson.dumps({"name": "m", "version": "1"} | dict.fromkeys(more, 1))
    assert parse_manifest(document, where="model.json").name == "m"


def _output(datatype: str, *shape: int, free: bool = False) -> TensorSpec:
    spec = {"name": datatype.lower(), "datatype": datatype, "shape": shape, "free_rank": free}
    return TensorSpec.model_validate(spec)


@pytest.mark.parametrize(
    "outputs",
    [
        [_output("FP32", -1, 3)],
        [_output("INT64", -1), _output("FP32", -1, 3)],
        [_output("FP32", 1, 3), _output("FP32", 1, 7)],
    ],
)
def test_labels_for_another_number_of_classes_are_refused(outputs: list[TensorSpec]) -> None:
    check_labels(outputs, ["a", "b", "c"])
    check_labels(outputs, [])
    with pytest.raises(ModelError, match=r"has 2 labels, .*has 3"):
        check_labels(outputs, ["a", "b"])


@pytest.mark.parametrize(
    "outputs",
    [
        [_output("FP32", -1, -1)],
        [_output("FP32", -1)],
        [_output("FP32", -1, 1)],
        [_output("FP32", 5, free=True)],
        [_output("INT64", -1, 4)],
        # a detector: the label is an output, and its boxes have four sides
        [_output("FP32", 1, 100, 4), _output("FP32", 1, 100), _output("INT64", 1, 100)],
    ],
)
def test_labels_that_may_be_right_are_left_alone(outputs: list[TensorSpec]) -> None:
    check_labels(outputs, ["a", "b"])


async def test_a_model_with_wrong_labels_is_not_served(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine(), labels=["a", "b", "c"])
    async with serve(wait_ready=False) as running:
        await until(lambda: running.state.registry.complete)
        (reason,) = running.state.registry.entries["affine"].failures.values()
    assert "3 labels" in reason
    assert "'y' has 2" in reason


def test_what_the_run_raises_is_told_apart(tmp_path: Path) -> None:
    folder = small_models.put(tmp_path, "sum", "1", SUM)
    model = OnnxModel(folder / "model.onnx", threads=1)
    wrong = {"a": np.ones((1, 2), np.float32), "b": np.ones((1, 3), np.float32)}
    with pytest.raises(ModelFailed):  # it has never run
        model.run(None, wrong)
    model.run(None, model.sample(1))
    with pytest.raises(InputsFailed, match="broadcast"):
        model.run(None, wrong)
    with pytest.raises(BadRequest):
        model.run(None, {"a": wrong["a"].astype(np.float64), "b": wrong["b"]})
