"""inference.engine.engine: what is traced, and the protocol's own examples from end to end."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kit.telemetry import spans
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


async def test_each_request_is_a_span_in_its_callers_trace(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    exporter = InMemorySpanExporter()
    async with serve() as running:
        running.state.engine.outcomes.spans = spans.configure("inference", exporter=exporter)
        headers = {"traceparent": f"00-{TRACE_ID}-{CALLER}-01", "x-request-id": "r1"}
        for inputs in ([tensor("x", "FP32", [1, 2], [1, 2])], []):
            await running.client.post(
                "/v2/models/affine/infer", json={"inputs": inputs}, headers=headers
            )
        unsampled = {"traceparent": f"00-{TRACE_ID}-{CALLER}-00"}
        await running.client.post("/v2/models/affine/infer", json={}, headers=unsampled)
    good, bad = exporter.get_finished_spans()
    for span in (good, bad):
        assert span.name == "infer affine"
        assert span.parent is not None
        assert format(span.parent.span_id, "016x") == CALLER
        assert format(span.context.trace_id, "032x") == TRACE_ID
        assert span.attributes is not None
        assert span.attributes["slipway.request_id"] == "r1"
        assert (span.end_time or 0) > (span.start_time or 0)
    assert good.status.is_ok or good.status.is_unset
    assert good.attributes is not None
    assert good.attributes["slipway.compute_ms"] > 0  # type: ignore[operator]
    assert bad.status.description == "bad_request"


def example() -> bytes:
    """The model that the protocol's text speaks of: two inputs, one output [3, 2]."""
    return small_models.model(
        [helper.make_node("Identity", ["answer"], ["output0"])],
        {"input0": (TensorProto.UINT32, [2, 2]), "input1": (TensorProto.BOOL, [3])},
        {"output0": (TensorProto.FLOAT, [3, 2])},
        {"answer": np.array([[1.0, 1.1], [2.0, 2.1], [3.0, 3.1]], np.float32)},
    )


async def test_the_protocols_own_examples(serve: Serve, repository: Path) -> None:
    """Source: the protocol's "Inference Request Examples" and "Binary Tensor Request Examples"."""
    small_models.put(repository, "mymodel", "1", example())
    as_json = {
        "id": "42",
        "inputs": [
            {"name": "input0", "shape": [2, 2], "datatype": "UINT32", "data": [1, 2, 3, 4]},
            {"name": "input1", "shape": [3], "datatype": "BOOL", "data": [True, False, True]},
        ],
        "outputs": [{"name": "output0"}],
    }
    as_binary = {
        "inputs": [
            {"name": "input0", "shape": [2, 2], "datatype": "UINT32",
             "parameters": {"binary_data_size": 16}},
            {"name": "input1", "shape": [3], "datatype": "BOOL",
             "parameters": {"binary_data_size": 3}},
        ],
        "outputs": [{"name": "output0", "parameters": {"binary_data": True}}],
    }  # fmt: skip
    async with serve() as running:
        answer = (await running.client.post("/v2/models/mymodel/infer", json=as_json)).json()
        assert answer["id"] == "42"
        (output,) = answer["outputs"]
        assert (output["name"], output["shape"], output["datatype"]) == ("output0", [3, 2], "FP32")
        assert np.allclose(output["data"], [1.0, 1.1, 2.0, 2.1, 3.0, 3.1])
        head = json.dumps(as_binary).encode()
        answer_2 = await running.client.post(
            "/v2/models/mymodel/infer",
            content=head + struct.pack("<4I", 1, 2, 3, 4) + b"\1\0\1",
            headers={
                "content-type": "application/octet-stream",
                "inference-header-content-length": str(len(head)),
            },
        )
        at = int(answer_2.headers["inference-header-content-length"])
        (output,) = json.loads(answer_2.content[:at])["outputs"]
        assert output["parameters"] == {"binary_data_size": 24}
        assert np.allclose(struct.unpack("<6f", answer_2.content[at:]), [1, 1.1, 2, 2.1, 3, 3.1])
