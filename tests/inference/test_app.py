"""inference.app and inference.fast_infer: the protocol over REST, on a running server.

Infer requests are sent both ways: with a Content-Length they take the short way through the
HTTP protocol, chunked they take the long one through ASGI. The answers must be the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.oip.datatypes import NUMPY
from kit.oip.tensors import to_binary
from tests.inference import small_models
from tests.inference.conftest import Running, Serve, serving, tensor

WAYS = pytest.mark.parametrize("way", ["short", "long"])


async def post(
    running: Running, path: str, body: bytes, way: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    """POST with a Content-Length (the short way) or chunked (the long one)."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        yield body[len(body) // 2 :]

    content: Any = body if way == "short" else chunks()
    return await running.client.post(path, content=content, headers=headers)


def request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


ROW = tensor("x", "FP32", [1, 2], [3.0, 4.0])


@WAYS
async def test_a_row_is_predicted(serve: Serve, repository: Path, way: str) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        answer = await post(
            running, "/v2/models/affine/infer", request(ROW, id="mine"), way, {"x-request-id": "r1"}
        )
    assert answer.status_code == 200
    assert answer.json() == {
        "model_name": "affine",
        "model_version": "1",
        "id": "mine",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [7.0, 9.0]}],
    }
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r1"
    assert answer.headers["x-slipway-model"] == "affine"
    assert answer.headers["x-slipway-model-version"] == "1"
    assert answer.headers["x-slipway-variant"] == "inference"
    assert answer.headers["x-slipway-pod"] == "pod-1"
    assert float(answer.headers["x-slipway-queue-ms"]) >= 0
    assert float(answer.headers["x-slipway-compute-ms"]) > 0


SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "FP16": [0.5, -2.0],
    "FP32": [0.5, -2.0],
    "FP64": [0.1, 1e300],
    "BYTES": ["Grüße", "안녕"],
} | {
    name: [int(np.iinfo(NUMPY[name]).min), int(np.iinfo(NUMPY[name]).max)]
    for name in NUMPY
    if "INT" in name
}


async def test_every_datatype_goes_in_and_out_as_json_and_as_bytes(
    serve: Serve, repository: Path
) -> None:
    for datatype in NUMPY:
        small_models.put(repository, datatype.lower(), "1", small_models.identity(datatype))
    async with serve() as running:
        for datatype, data in SAMPLES.items():
            path = f"/v2/models/{datatype.lower()}/infer"
            for way in ("short", "long"):
                answer = await post(
                    running, path, request(tensor("x", datatype, [1, 2], data)), way
                )
                (output,) = answer.json()["outputs"]
                assert (output["datatype"], output["data"]) == (datatype, data), answer.text

                raw = to_binary(np.array(data, dtype=NUMPY[datatype]))
                head = json.dumps(
                    {
                        "inputs": [
                            {
                                "name": "x",
                                "datatype": datatype,
                                "shape": [1, 2],
                                "parameters": {"binary_data_size": len(raw)},
                            }
                        ],
                        "parameters": {"binary_data_output": True},
                    }
                ).encode()
                binary = {"inference-header-content-length": str(len(head))}
                answer = await post(running, path, head + raw, way, binary)
                assert answer.headers["content-type"] == "application/octet-stream"
                at = int(answer.headers["inference-header-content-length"])
                (output,) = json.loads(answer.content[:at])["outputs"]
                assert output["parameters"] == {"binary_data_size": len(raw)}
                assert answer.content[at:] == raw


async def test_integers_may_be_written_with_a_point(serve: Serve, repository: Path) -> None:
    """JSON knows one kind of number, and clients in R or Lua send 2.0 for 2."""
    small_models.put(repository, "affine", "1", small_models.affine(), labels=["cat", "dog"])
    raw = to_binary(np.array([[1, 3]], np.float32))
    wanted = {"name": "y", "parameters": {"classification": 1.0}}
    more = {"priority": 0.0, "timeout": 6.4e9}
    as_data = {"name": "x", "datatype": "FP32", "shape": [1.0, 2.0], "data": [1, 3]}
    as_bytes = {k: v for k, v in as_data.items() if k != "data"} | {
        "parameters": {"binary_data_size": float(len(raw))}
    }
    async with serve() as running:
        for way in ("short", "long"):
            for sent, binary in ((as_data, b""), (as_bytes, raw)):
                head = json.dumps({"inputs": [sent], "parameters": more, "outputs": [wanted]})
                size = {"inference-header-content-length": str(len(head))}
                answer = await post(
                    running, "/v2/models/affine/infer", head.encode() + binary, way, size
                )
                assert answer.status_code == 200, answer.text
                assert answer.json()["outputs"][0]["data"] == ["7.0:1:dog"]


async def test_some_outputs_can_be_asked_for_each_in_its_form(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "two", "1", small_models.two_in_two_out())
    a, b = tensor("a", "FP32", [1, 2], [5, 6]), tensor("b", "FP32", [1, 2], [1, 2])
    async with serve() as running:
        both = await running.infer("two", a, b)
        assert [output["name"] for output in both.json()["outputs"]] == ["sum", "difference"]
        one = await running.infer("two", a, b, outputs=[{"name": "difference"}])
        assert [output["data"] for output in one.json()["outputs"]] == [[4.0, 4.0]]
        mixed = await running.infer(
            "two",
            b,
            a,
            outputs=[{"name": "difference", "parameters": {"binary_data": True}}, {"name": "sum"}],
        )
        at = int(mixed.headers["inference-header-content-length"])
        first, second = json.loads(mixed.content[:at])["outputs"]
        assert (first["name"], second["data"]) == ("difference", [6.0, 8.0])
        assert struct.unpack("<2f", mixed.content[at:]) == (4.0, 4.0)


async def test_nested_data_and_several_rows(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        answer = await running.infer("affine", tensor("x", "FP32", [2, 2], [[1, 2], [3, 4]]))
        assert answer.json()["outputs"][0]["shape"] == [2, 2]
        assert answer.json()["outputs"][0]["data"] == [3.0, 5.0, 7.0, 9.0]


@WAYS
@pytest.mark.parametrize("rows", [10_000, 60_000], ids=["300 KB", "2 MB"])
async def test_a_large_body_is_parsed_off_the_loop_with_the_same_result(
    serve: Serve, repository: Path, way: str, rows: int
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    body = request(tensor("x", "FP32", [rows, 2], values.tolist()))
    async with serve(max_queue_size=100_000) as running:
        answer = await post(running, "/v2/models/affine/infer", body, way)
        assert answer.status_code == 200
        assert answer.json()["outputs"][0]["data"] == (values * 2 + 1).ravel().tolist()
        wrong = body.replace(b'"FP32"', b'"FP64"')
        assert (await post(running, "/v2/models/affine/infer", wrong, way)).status_code == 400
        assert running.state.engine.in_flight == 0


BAD: dict[str, tuple[Callable[[], bytes], dict[str, str], str]] = {
    "no JSON": (lambda: b"{", {}, "no JSON"),
    "empty": (lambda: b"", {}, "no JSON"),
    "NaN": (lambda: request(ROW).replace(b"3.0", b"NaN"), {}, "no JSON"),
    "deeply nested": (lambda: b'{"inputs":' + b"[" * 50_000, {}, "no JSON"),
    "a list": (lambda: b"[]", {}, "must be a JSON object"),
    "no inputs": (lambda: b"{}", {}, "inputs must be"),
    "inputs of text": (lambda: request("x"), {}, "inputs must be objects"),  # type: ignore[arg-type]
    "no name": (lambda: request({"shape": [1, 2]}), {}, "inputs[].name is missing"),
    "unknown input": (lambda: request(tensor("q", "FP32", [1, 2], [1, 2])), {}, "input 'q'"),
    "input twice": (lambda: request(ROW, ROW), {}, "input 'x' is given twice"),
    "wrong dtype": (lambda: request(tensor("x", "INT64", [1, 2], [1, 2])), {}, "'x' is FP32, got"),
    "no dtype": (lambda: request({"name": "x", "shape": [1, 2], "data": [1, 2]}), {}, "None"),
    "unknown dtype": (lambda: request(tensor("x", "FP31", [1, 2], [1, 2])), {}, "'FP31'"),
    "wrong rank": (lambda: request(tensor("x", "FP32", [2], [1, 2])), {}, "input 'x' has shape"),
    "wrong width": (lambda: request(tensor("x", "FP32", [1, 3], [1, 2, 3])), {}, "input 'x'"),
    "negative shape": (lambda: request(tensor("x", "FP32", [-1, 2], [1, 2])), {}, "input 'x'"),
    "shape of text": (lambda: request(tensor("x", "FP32", "12", [1, 2])), {}, "shape must be"),  # type: ignore[arg-type]
    "huge shape": (lambda: request(tensor("x", "FP32", [2**62, 2], [1, 2])), {}, "input 'x'"),
    "too few": (lambda: request(tensor("x", "FP32", [2, 2], [1, 2])), {}, "input 'x'"),
    "no rows": (lambda: request(tensor("x", "FP32", [0, 2], [])), {}, "no rows"),
    "text": (lambda: request(tensor("x", "FP32", [1, 2], ["a", "b"])), {}, "input 'x'"),
    "no data": (lambda: request({"name": "x", "datatype": "FP32", "shape": [1, 2]}), {}, "data is"),
    "unknown output": (lambda: request(ROW, outputs=[{"name": "q"}]), {}, "output 'q'"),
    "output twice": (lambda: request(ROW, outputs=[{"name": "y"}] * 2), {}, "'y' is asked for"),
    "outputs of text": (lambda: request(ROW, outputs="y"), {}, "outputs must be"),
    "id of numbers": (lambda: request(ROW, id=5), {}, "id must be text"),
    "timeout of text": (lambda: request(ROW, parameters={"timeout": "soon"}), {}, "timeout"),
    "flag of text": (lambda: request(ROW, parameters={"binary_data_output": 1}), {}, "binary_data"),
    "header too long": (
        lambda: request(ROW), {"inference-header-content-length": "9999"}, "9999"
    ),
    "header of text": (lambda: request(ROW), {"inference-header-content-length": "x"}, "'x'"),
    "left over": (lambda: request(ROW) + b"abc", {"inference-header-content-length":
        str(len(request(ROW)))}, "3 bytes of binary data are left over"),
    "truncated binary": (lambda: request({"name": "x", "datatype": "FP32", "shape": [1, 2],
        "parameters": {"binary_data_size": 8}}), {}, "input 'x': binary_data_size is 8"),
    "bad timeout": (lambda: request(ROW), {"x-request-timeout": "soon"}, "X-Request-Timeout"),
}  # fmt: skip


async def test_what_is_wrong_is_a_400_that_names_it_and_serving_goes_on(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        for name, (body, headers, names) in BAD.items():
            for way in ("short", "long"):
                answer = await post(running, "/v2/models/affine/infer", body(), way, headers)
                assert answer.status_code == 400, (name, way, answer.text)
                assert names in answer.json()["error"], (name, way, answer.text)
                assert set(answer.json()) == {"error"}
        assert (await running.infer("affine", ROW)).status_code == 200
        assert running.state.engine.in_flight == 0
        (served,) = running.state.registry.all_serving()
        assert served.batcher.queued_rows == 0
        assert served.leases == 0


@pytest.mark.parametrize("digits", [19, 400, 5000])
@WAYS
async def test_a_timeout_of_many_digits_is_a_400_that_names_it(
    serve: Serve, repository: Path, way: str, digits: int
) -> None:
    """Found: 400 digits overflowed the division, 5000 were more than int() takes: both 500."""
    small_models.put(repository, "affine", "1", small_models.affine())
    body = request(ROW, parameters={"timeout": "9" * digits})
    async with serve() as running:
        answer = await post(running, "/v2/models/affine/infer", body, way)
        assert answer.status_code == 400
        assert "parameters.timeout" in answer.json()["error"]
        assert len(answer.content) < 300
        most = request(ROW, parameters={"timeout": "9" * 18})
        assert (await post(running, "/v2/models/affine/infer", most, way)).status_code == 200


@pytest.mark.parametrize("size", [2**62, 2**63])
async def test_an_empty_shape_with_a_huge_size_is_a_400_that_names_the_input(
    serve: Serve, repository: Path, size: int
) -> None:
    """Found: [0, 2^62] holds as many elements as no data has, and numpy refused it: 500."""
    datatypes = ("FP32", "INT64", "BOOL", "BYTES")
    for datatype in datatypes:
        model = small_models.identity(datatype, ["rows", "width"])
        small_models.put(repository, datatype.lower(), "1", model)
    async with serve() as running:
        for datatype in datatypes:
            as_json = request(tensor("x", datatype, [0, size], []))
            entry = {"name": "x", "datatype": datatype, "shape": [0, size]}
            as_bytes = request(entry | {"parameters": {"binary_data_size": 0}})
            path = f"/v2/models/{datatype.lower()}/infer"
            for way in ("short", "long"):
                for body, headers in (
                    (as_json, {}),
                    (as_bytes, {"inference-header-content-length": str(len(as_bytes))}),
                ):
                    answer = await post(running, path, body, way, headers)
                    assert answer.status_code == 400, answer.text
                    # one byte an element fits, and is refused for having no rows
                    assert "input" in answer.json()["error"]


async def test_a_defect_of_ours_is_a_500_in_json_logged_and_counted(
    serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: on ASGI routes it left as plain text, without a metric."""
    small_models.put(repository, "affine", "1", small_models.affine())

    async def broken() -> None:
        raise ZeroDivisionError

    async with serve() as running:
        (served,) = running.state.registry.all_serving()
        monkeypatch.setattr(served, "inputs", None)
        headers = {"content-type": "application/json"}
        paths = ("/v2/models/affine/infer", "/v1/models/affine:predict", "/invocations")
        rows = json.dumps({"instances": [[1, 2]]}).encode()
        for path in paths:
            for way in ("short", "long"):
                body = request(ROW) if "infer" in path else rows
                answer = await post(running, path, body, way, headers)
                assert answer.status_code == 500, path
                assert answer.headers["content-type"] == "application/json"
                assert set(answer.json()) == {"error"}
        assert served.statistics.failures["internal"] == 2 * len(paths)
        monkeypatch.setattr(running.state.registry, "index", broken)
        answer = await post(running, "/v2/repository/index", b"", "short")
        assert answer.status_code == 500
        assert set(answer.json()) == {"error"}
        assert running.state.engine.outcomes.refused["internal"] == 1
        assert running.state.engine.in_flight == served.leases == 0


async def test_missing_inputs_and_unequal_rows_are_named(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "two", "1", small_models.two_in_two_out())
    async with serve() as running:
        a = tensor("a", "FP32", [1, 2], [1, 2])
        assert "input 'b' is missing" in (await running.infer("two", a)).json()["error"]
        b = tensor("b", "FP32", [2, 2], [1, 2, 3, 4])
        assert "'b' has 2 rows" in (await running.infer("two", a, b)).json()["error"]


async def test_a_row_the_model_refuses_is_a_400(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "picky", "1", small_models.picky())
    async with serve() as running:
        good, bad = await asyncio.gather(
            running.infer("picky", tensor("i", "INT64", [1], [3])),
            running.infer("picky", tensor("i", "INT64", [1], [99])),
        )
        assert good.json()["outputs"][0]["data"] == [30.0]
        assert bad.status_code == 400
        assert "the model refused" in bad.json()["error"]


ERRORS: list[tuple[str, str, int, str]] = [
    ("GET", "/nothing", 404, "no such path"),
    ("GET", "/v3", 404, "no such path"),
    ("POST", "/v2/models/none/infer", 404, "'none' is unknown; loaded models: affine"),
    ("POST", "/v2/models/affine/versions/7/infer", 404, "no version '7'; loaded versions: 1"),
    ("GET", "/v2/models/affine/infer", 405, "POST is"),
    ("GET", "/v2/models/none", 404, "unknown"),
    ("GET", "/v2/models/none/stats", 404, "unknown"),
    ("DELETE", "/v2/models/affine", 405, "GET"),
    ("POST", "/v2", 405, "GET"),
    ("GET", "/v2/models/affine/nothing", 404, "no such path"),
    ("GET", "/v2/models/a%2Fb", 404, "'a/b' is unknown"),
    ("POST", "/v2/repository/models/affine/load", 403, "INFERENCE_REPOSITORY_CONTROL"),
    ("POST", "/v2/repository/models/affine/unload", 403, "INFERENCE_REPOSITORY_CONTROL"),
    ("GET", "/v2/repository/index", 405, "POST"),
]


async def test_errors_have_their_status_and_the_protocols_body(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        for method, path, status, names in ERRORS:
            answer = await running.client.request(method, path)
            assert answer.status_code == status, (method, path, answer.text)
            assert names in answer.json()["error"], (method, path)
            assert ("allow" in answer.headers) == (status == 405)


async def test_the_descriptions(serve: Serve, repository: Path) -> None:
    manifest: dict[str, Any] = {"labels": ["a", "b"], "batching": {"max_batch_size": 8}}
    small_models.put(repository, "affine", "1", small_models.affine(), **manifest)
    async with serve() as running:
        get = running.client.get
        assert (await get("/v2/health/live")).json() == {"live": True}
        assert (await get("/v2/health/ready")).json() == {"ready": True}
        server = (await get("/v2")).json()
        assert server["name"] == "slipway-inference"
        assert "binary_tensor_data" in server["extensions"]
        model = (await get("/v2/models/affine")).json()
        assert model["versions"] == ["1"]
        assert model["platform"] == "onnxruntime_onnx"
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
        assert model["properties"] == {
            "labels": ["a", "b"],
            "columns": [],
            "preprocess": [],
            "postprocess": [],
            "sha256": hashlib.sha256(small_models.affine()).hexdigest(),
            "batching": model["properties"]["batching"],
            "free_rank": [],
        }
        assert (await get("/v2/models/affine/versions/1")).json() == model
        assert (await get("/v2/models/affine/ready")).json()["ready"] is True
        assert (await get("/ping")).status_code == 200
        assert (await get("/livez")).status_code == (await get("/readyz")).status_code == 200
        head = await running.client.head("/v2/health/ready")
        assert (head.status_code, head.content) == (200, b"")
        index = await running.client.post("/v2/repository/index", json={"ready": True})
        assert index.json() == [{"name": "affine", "version": "1", "state": "READY", "reason": ""}]


async def test_versions_are_served_side_by_side(serve: Serve, repository: Path) -> None:
    for version, offset in (("9", 9.0), ("10", 10.0)):
        small_models.put(repository, "affine", version, small_models.affine(1, offset))
    zero = tensor("x", "FP32", [1, 2], [0, 0])
    async with serve() as running:
        newest = (await running.infer("affine", zero)).json()
        assert (newest["model_version"], newest["outputs"][0]["data"][0]) == ("10", 10.0)
        nine = (await running.infer("affine/versions/9", zero)).json()
        assert (nine["model_version"], nine["outputs"][0]["data"][0]) == ("9", 9.0)
        assert (await running.client.get("/v2/models/affine")).json()["versions"] == ["9", "10"]
    async with serve(pinned_versions={"affine": "9"}) as running:
        assert (await running.infer("affine", zero)).json()["model_version"] == "9"
    async with serve(version_policy="latest") as running:
        assert (await running.client.get("/v2/models/affine")).json()["versions"] == ["10"]


async def test_statistics_count_rows_batches_and_failures(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        for _ in range(3):
            await running.infer("affine", tensor("x", "FP32", [2, 2], [1, 2, 3, 4]))
        await running.infer("affine", tensor("x", "FP32", [1, 2], ["a", "b"]))
        (stats,) = (await running.client.get("/v2/models/affine/stats")).json()["model_stats"]
        assert (stats["inference_count"], stats["execution_count"]) == (6, 3)
        assert stats["inference_stats"]["success"]["count"] == 3
        assert stats["inference_stats"]["fail"]["count"] == 1
        assert stats["inference_stats"]["queue"]["ns"] > 0
        assert [row["batch_size"] for row in stats["batch_stats"]] == [2]
        every = (await running.client.get("/v2/models/stats")).json()["model_stats"]
        assert [row["name"] for row in every] == ["affine"]
        metrics = (await running.client.get("/metrics")).text
        labels = 'model="affine",protocol="rest",status="200",version="1"'
        assert f"inference_requests_total{{{labels}}} 3.0" in metrics
        assert 'inference_failures_total{model="affine",reason="bad_request"' in metrics
        assert 'inference_model_loaded{model="affine",version="1"} 1.0' in metrics
        assert 'inference_batch_rows_bucket{le="2.0",model="affine",version="1"} 3.0' in metrics
        assert 'inference_stage_duration_seconds_count{model="affine",stage="compute"' in metrics


async def test_a_trace_goes_on_and_a_request_id_cannot_smuggle(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        for way in ("short", "long"):
            for identity in ("é", "x" * 500):
                headers = {"x-request-id": identity.encode()}
                answer = await post(running, "/v2/models/affine/infer", request(ROW), way, headers)  # type: ignore[arg-type]
                assert answer.status_code == 200
                assert answer.headers["x-request-id"].isalnum()
                assert len(answer.headers["x-request-id"]) < 40


async def test_pipelined_requests_are_answered_in_their_order(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for number in range(6):
            body = request(tensor("x", "FP32", [1, 2], [number, number]))
            path = b"/v2/models/affine/infer"
            if number == 3:
                writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n")
                continue
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b"
                % (path, len(body), body)
            )
        seen = []
        for _ in range(6):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            document = json.loads(await reader.readexactly(length))
            seen.append(document["outputs"][0]["data"][0] if "outputs" in document else "live")
        assert seen == [1.0, 3.0, 5.0, "live", 9.0, 11.0]
        writer.close()
        await writer.wait_closed()


async def test_http_10_and_connection_close_are_honoured(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    body = request(ROW)
    async with serve() as running:
        for version, extra in ((b"1.0", b""), (b"1.1", b"connection: close\r\n")):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(
                b"POST /v2/models/affine/infer HTTP/%b\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n%b"
                % (version, extra, len(body), body)
            )
            answer = await asyncio.wait_for(reader.read(), 10)
            assert b" 200 OK" in answer
            assert b"connection: close" in answer
            writer.close()
            await writer.wait_closed()
        await writer.wait_closed()


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), min_size=1, max_size=30)
)
def test_concurrent_requests_each_get_their_own_rows(
    tmp_path_factory: pytest.TempPathFactory, requests: list[list[tuple[float, float]]]
) -> None:
    async def run() -> None:
        repository = tmp_path_factory.mktemp("models")
        small_models.put(repository, "affine", "1", small_models.affine(1.0, 1.0))
        async with serving(str(repository), max_batch_size=8, warmup_runs=0) as running:
            answers = await asyncio.gather(
                *(running.infer("affine", tensor("x", "FP32", [len(rows), 2], rows))
                  for rows in requests)
            )  # fmt: skip
            for rows, answer in zip(requests, answers, strict=True):
                got = np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(-1, 2)
                assert np.array_equal(got, np.array(rows, np.float32) + np.float32(1))

    asyncio.run(run())
