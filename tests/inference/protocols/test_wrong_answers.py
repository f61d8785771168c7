"""Requests that were answered 200 with something else than was asked for."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from onnx import TensorProto, helper

from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from kit.oip.tensors import to_binary
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor
from tests.inference.protocols.test_grpc_server import Client

FORM = {"content-type": "application/json"}
SPEC = (TensorProto.FLOAT, ["rows", 3])
LOG = small_models.model([helper.make_node("Log", ["x"], ["y"])], {"x": SPEC}, {"y": SPEC})


async def test_two_lines_of_content_encoding_are_one_list(serve: Serve, repository: Path) -> None:
    """Found: the first line was undone, and the second ignored."""
    small_models.put(repository, "affine", "1", small_models.affine())
    document = {"inputs": [tensor("x", "FP32", [1, 2], [1, 2])]}
    body = gzip.compress(zlib.compress(orjson.dumps(document)))
    lines = [*FORM.items(), ("content-encoding", "deflate"), ("content-encoding", "gzip")]
    async with serve() as running:
        for path in ("/v2/models/affine/infer", "/v2/models/affine/infer?a=1", "/invocations"):
            answer = await running.client.post(path, content=body, headers=lines)
            assert answer.status_code == 200, (path, answer.text)


async def test_two_lengths_of_the_json_are_refused(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    document = {"inputs": [tensor("x", "FP32", [1, 2], [1, 2])]}
    name = "inference-header-content-length"
    lines = [*FORM.items(), (name, "7"), (name, str(len(orjson.dumps(document))))]
    async with serve() as running:
        answer = await running.client.post(
            "/v2/models/affine/infer", content=orjson.dumps(document), headers=lines
        )
    assert answer.status_code == 400
    assert "more than one inference-header-content-length" in answer.json()["error"]


@pytest.mark.parametrize("rows", [1, 500])
async def test_a_name_that_stands_twice_is_refused(
    serve: Serve, repository: Path, rows: int
) -> None:
    """Found: the last of the two counted, and nothing said so."""
    small_models.put(repository, "affine", "1", small_models.affine())
    entry = tensor("x", "FP32", [rows, 2], [1.5, 2.5] * rows)
    infer = orjson.dumps({"inputs": [entry], "id": "a"})
    instances = orjson.dumps({"instances": [[1, 2]] * rows, "a": 0})
    asked = [
        ("/v2/models/affine/infer", infer.replace(b'"id"', b'"inputs"'), "inputs"),
        ("/v2/models/affine/infer", infer.replace(b'"shape"', b'"shape":[9],"shape"'), "shape"),
        ("/v1/models/affine:predict", instances.replace(b'"a"', b'"instances"'), "instances"),
        ("/invocations", instances.replace(b'"a"', b'"instances"'), "instances"),
        ("/invocations", infer.replace(b'"id"', b'"inputs"'), "inputs"),
    ]
    async with serve() as running:
        for path, body, name in asked:
            answer = await running.client.post(path, content=body, headers=FORM)
            assert answer.status_code == 400, (path, name)
            assert f"the name '{name}' stands twice" in answer.json()["error"]


async def test_a_label_is_not_taken_from_scores_that_hold_nan(
    serve: Serve, repository: Path
) -> None:
    """Found: argmax takes the place of a NaN for the largest."""
    lookup = {"transform": "label_lookup", "input": "y", "output": "class"}
    small_models.put(repository, "log", "1", LOG, labels=["a", "b", "c"], postprocess=[lookup])
    ask = {"outputs": [{"name": "class"}]}
    async with serve() as running:
        good = await running.infer("log", tensor("x", "FP32", [1, 3], [0, 2, 1]), **ask)
        assert good.json()["outputs"][0]["data"] == ["b"]
        answer = await running.infer("log", tensor("x", "FP32", [2, 3], [1, 2, 3, 1, -1, 2]), **ask)
    assert answer.status_code == 500
    assert "y[1, 1] is NaN" in answer.json()["error"]


async def test_the_prediction_log_counts_what_json_cannot_say(
    serve: Serve, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found: null for NaN and infinities, and nothing said so."""
    small_models.put(repository, "log", "1", LOG)
    async with serve(prediction_log="stdout", prediction_log_inputs="full") as running:
        for row in ([-1, 0, 1], [1, 1, 1]):
            await running.infer("log", tensor("x", "FP32", [1, 3], row))
    lines = [line for line in capfd.readouterr().out.splitlines() if '"specversion"' in line]
    odd, plain = (json.loads(line)["data"] for line in lines)
    assert (odd["outputs"][0]["data"], odd["outputs"][0]["non_finite"]) == ([None, None, 0.0], 2)
    assert "non_finite" not in plain["outputs"][0]
    assert "non_finite" not in odd["inputs"][0]


async def test_base64_is_undone_over_every_protocol(serve: Serve, repository: Path) -> None:
    """Found: content_type base64 counted in JSON alone; elsewhere the model got the base64."""
    small_models.put(repository, "bytes", "1", small_models.identity("BYTES"))
    coded = base64.b64encode("한글".encode())
    said = {"content_type": "base64"}
    async with serve() as running, Client(running) as client:
        entry = tensor("x", "BYTES", [1, 2], [coded.decode()] * 2, parameters=said)
        assert (await running.infer("bytes", entry)).json()["outputs"][0]["data"] == ["한글"] * 2
        payload = to_binary(np.array([coded, coded], dtype=object))
        entry = tensor("x", "BYTES", [1, 2], None)
        del entry["data"]
        entry["parameters"] = said | {"binary_data_size": len(payload)}
        head = orjson.dumps({"inputs": [entry]})
        answer = await running.client.post(
            "/v2/models/bytes/infer",
            content=head + payload,
            headers={"inference-header-content-length": str(len(head))},
        )
        assert answer.json()["outputs"][0]["data"] == ["한글"] * 2
        for contents in (True, False):
            request = grpc_request([coded, coded], contents=contents)
            found = await client.call("ModelInfer", request)
            texts = found.outputs[0].contents.bytes_contents or found.raw_output_contents
            assert "한글".encode() in texts[0]
        with pytest.raises(Exception, match="is no base64"):
            await client.call("ModelInfer", grpc_request([b"%", b"%"], contents=True))


def grpc_request(values: list[bytes], *, contents: bool) -> Any:
    """A request whose elements are base64, typed or raw."""
    entry: dict[str, Any] = {
        "name": "x",
        "datatype": "BYTES",
        "shape": [1, len(values)],
        "parameters": {"content_type": {"string_param": "base64"}},
    }
    if contents:
        entry["contents"] = {"bytes_contents": values}
        return pb.ModelInferRequest(model_name="bytes", inputs=[entry])
    raw = to_binary(np.array(values, dtype=object))
    return pb.ModelInferRequest(model_name="bytes", inputs=[entry], raw_input_contents=[raw])
