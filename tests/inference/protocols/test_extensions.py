"""Triton's extensions over REST and gRPC: those that are served, and those refused by name."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from inference.engine.classification import classify
from inference.protocols import unsupported
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from kit.version import version_of
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor
from tests.inference.protocols.test_grpc_server import SERVICE, Client, infer, raw

ROWS = tensor("x", "FP32", [2, 2], [1, 3, 0.1, -5])


def labelled(repository: Path, **more: Any) -> None:
    """``affine`` with labels: y = 2x + 1."""
    small_models.put(repository, "affine", "1", small_models.affine(), labels=["cat", "a:b"],
                     **more)  # fmt: skip


async def test_the_largest_values_come_with_their_labels(serve: Serve, repository: Path) -> None:
    labelled(repository)
    wanted: dict[str, Any] = {"name": "y", "parameters": {"classification": 1}}
    async with serve() as running, Client(running) as client:
        answer = (await running.infer("affine", ROWS, outputs=[wanted])).json()
        assert answer["outputs"] == [
            {"name": "y", "datatype": "BYTES", "shape": [2, 1], "data": ["7.0:1:a:b", "1.2:0:cat"]}
        ]
        wanted["parameters"] |= {"classification": 9, "binary_data": True}
        said = await running.infer("affine", ROWS, outputs=[wanted])
        length = int(said.headers["inference-header-content-length"])
        assert b'"shape":[2,2]' in said.content[:length]
        assert b"7.0:1:a:b" in said.content[length:]
        request = infer("affine", "FP32", [2, 2], fp32_contents=[1, 3, 0.1, -5])
        request.outputs.add(name="y").parameters["classification"].int64_param = 2
        reply = await client.call("ModelInfer", request)
        assert (reply.outputs[0].datatype, list(reply.outputs[0].shape)) == ("BYTES", [2, 2])
        assert list(reply.outputs[0].contents.bytes_contents) == [
            b"7.0:1:a:b", b"3.0:0:cat", b"1.2:0:cat", b"-9.0:1:a:b",
        ]  # fmt: skip
        request = raw("affine", np.array([[1, 3]], np.float32), "FP32")
        request.outputs.add(name="y").parameters["classification"].int64_param = 1
        reply = await client.call("ModelInfer", request)
        assert reply.raw_output_contents[0] == b"\x09\x00\x00\x007.0:1:a:b"


@pytest.mark.parametrize("count", [-1, 1.5, True, "1", 2**31])
async def test_what_is_no_number_of_classes_is_named(
    serve: Serve, repository: Path, count: Any
) -> None:
    labelled(repository)
    async with serve() as running:
        wanted = {"name": "y", "parameters": {"classification": count}}
        answer = await running.infer("affine", ROWS, outputs=[wanted])
        assert answer.status_code == 400
        assert "'y': parameters.classification" in answer.json()["error"]


async def test_text_has_no_classes(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "text", "1", small_models.identity("BYTES"))
    async with serve() as running:
        answer = await running.infer(
            "text", tensor("x", "BYTES", [1, 2], ["a", "b"]),
            outputs=[{"name": "y", "parameters": {"classification": 1}}],
        )  # fmt: skip
        assert answer.status_code == 400
        assert "'y' is BYTES: only numbers" in answer.json()["error"]


@given(
    st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=12),
    st.integers(1, 14),
)
def test_classes_are_the_largest_first_the_earlier_of_equal_ones_and_nan_last(
    row: list[float], count: int
) -> None:
    values = np.array([row], np.float32)
    found = classify({"y": values}, {"y": count}, [], rows=True)["y"]
    assert found.shape == (1, min(count, len(row)))
    said = [text.split(":") for text in found[0]]
    places = [int(index) for _, index in said]
    assert len(set(places)) == len(places)
    expected = sorted(range(len(row)), key=lambda at: (np.nan_to_num(-values[0, at], nan=np.inf,
                      posinf=np.inf, neginf=-np.inf), at))  # fmt: skip
    assert places == expected[: len(places)]
    for score, place in zip((score for score, _ in said), places, strict=True):
        assert np.array_equal(np.float32(score), values[0, place], equal_nan=True)


def test_without_rows_all_values_of_an_output_are_one_list() -> None:
    values = np.array([[1, 9], [2**63, 4]], np.uint64)
    assert classify({"y": values}, {"y": 2}, ["a"], rows=False)["y"].tolist() == [
        f"{2**63}:2", "9:1",
    ]  # fmt: skip
    assert classify({"y": values}, {"y": 1}, [], rows=True)["y"].tolist() == [
        ["9:1"],
        [f"{2**63}:0"],
    ]


async def test_the_configuration_says_what_is_true_of_the_model(
    serve: Serve, repository: Path
) -> None:
    small_models.put(
        repository, "affine", "1", small_models.affine(),
        batching={"max_batch_size": 16, "max_queue_size": 99, "max_queue_delay_ms": 1.5},
    )  # fmt: skip
    small_models.put(repository, "fixed", "1", small_models.identity("BYTES", [1, 2]))
    async with serve(default_timeout_seconds=2, instances=3) as running, Client(running) as client:
        config = (await running.client.get("/v2/models/affine/config")).json()
        assert config == {
            "name": "affine",
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": 16,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
            "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
            "instance_group": [{"name": "affine", "kind": "KIND_CPU", "count": 3}],
            "default_model_filename": "model.onnx",
            "dynamic_batching": {
                "max_queue_delay_microseconds": 1500,
                "default_queue_policy": {
                    "timeout_action": "REJECT",
                    "default_timeout_microseconds": 2_000_000,
                    "allow_timeout_override": True,
                    "max_queue_size": 99,
                },
            },
        }
        fixed = (await running.client.get("/v2/models/fixed/versions/1/config")).json()
        assert fixed["max_batch_size"] == 0
        assert "dynamic_batching" not in fixed
        assert fixed["input"] == [{"name": "x", "data_type": "TYPE_STRING", "dims": [1, 2]}]
        reply = await client.call("ModelConfig", pb.ModelConfigRequest(name="affine", version="1"))
        assert reply.config.max_batch_size == 16
        assert reply.config.dynamic_batching.default_queue_policy.max_queue_size == 99
        assert (reply.config.input[0].data_type, list(reply.config.input[0].dims)) == (
            pb.TYPE_FP32, [2],
        )  # fmt: skip
        assert (await running.client.get("/v2/models/none/config")).status_code == 404
        assert (await running.client.post("/v2/models/affine/config")).status_code == 405


PATHS = [
    ("GET", "/v2/systemsharedmemory/status", "system shared memory"),
    ("GET", "/v2/systemsharedmemory/region/a/status", "system shared memory"),
    ("POST", "/v2/systemsharedmemory/region/a/register", "system shared memory"),
    ("POST", "/v2/systemsharedmemory/unregister", "system shared memory"),
    ("POST", "/v2/cudasharedmemory/region/a/register", "CUDA shared memory"),
    ("GET", "/v2/cudasharedmemory/status", "CUDA shared memory"),
    ("GET", "/v2/trace/setting", "trace settings"),
    ("POST", "/v2/models/affine/trace/setting", "trace settings"),
    ("GET", "/v2/logging", "log settings"),
    ("POST", "/v2/models/affine/generate", "the generate extension"),
    ("POST", "/v2/models/affine/versions/1/generate_stream", "the generate extension"),
]


async def test_extensions_that_are_not_served_are_refused_by_their_names(
    serve: Serve, repository: Path
) -> None:
    labelled(repository)
    async with serve() as running, Client(running) as client:
        for method, path, feature in PATHS:
            answer = await running.client.request(method, path)
            assert answer.status_code == 501, path
            assert answer.json()["error"].startswith(feature), path
        for name, words in unsupported.GRPC_METHODS.items():
            kind = "stream_stream" if name == "ModelStreamInfer" else "unary_unary"
            call = getattr(client.channel, kind)(f"/{SERVICE}/{name}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                if name == "ModelStreamInfer":
                    async for _ in call(iter([b""])):
                        raise AssertionError("nothing is streamed")
                else:
                    await call(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert words.partition(": ")[0] in str(caught.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary(f"/{SERVICE}/Unheard")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


REQUEST = {
    "sequence_id": (7, "sequences"),
    "sequence_start": (True, "sequences"),
    "sequence_end": (True, "sequences"),
    "priority": (-1, "integer"),
    "triton_enable_empty_final_response": (True, "not served"),
}
TENSOR = {
    "shared_memory_region": "region",
    "shared_memory_byte_size": 8,
    "shared_memory_offset": 8,
}


def set_parameter(parameters: Any, name: str, value: Any) -> None:
    kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
    setattr(parameters[name], kind, value)


async def refused_by_grpc(client: Client, method: str, request: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call(method, request)
    return caught.value.code(), str(caught.value.details())


async def test_parameters_that_would_change_the_answer_are_refused_by_name(
    serve: Serve, repository: Path
) -> None:
    labelled(repository)
    refused = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT)
    async with serve() as running, Client(running) as client:
        for name, (value, why) in REQUEST.items():
            answer = await running.infer("affine", ROWS, parameters={name: value})
            assert answer.status_code == 400
            assert f"parameters.{name}" in answer.json()["error"]
            assert why in answer.json()["error"]
            request = infer("affine", "FP32", [1, 2], fp32_contents=[1, 2])
            set_parameter(request.parameters, name, value)
            code, details = await refused_by_grpc(client, "ModelInfer", request)
            assert code in refused
            assert f"parameters.{name}" in details
        for name, value in TENSOR.items():
            for kind in ("input", "output"):
                source = {**ROWS, "parameters": {name: value}} if kind == "input" else ROWS
                wanted = [{"name": "y", "parameters": {name: value} if kind == "output" else {}}]
                answer = await running.infer("affine", source, outputs=wanted)
                assert answer.status_code == 400
                which = "input 'x'" if kind == "input" else "output 'y'"
                assert f"{which}: {name}" in answer.json()["error"]
                request = infer("affine", "FP32", [1, 2], fp32_contents=[1, 2])
                tensor_of = request.inputs[0] if kind == "input" else request.outputs.add(name="y")
                set_parameter(tensor_of.parameters, name, value)
                code, details = await refused_by_grpc(client, "ModelInfer", request)
                assert code == grpc.StatusCode.UNIMPLEMENTED
                assert name in details


async def test_what_clients_send_for_no_sequence_and_no_priority_is_taken(
    serve: Serve, repository: Path
) -> None:
    labelled(repository)
    harmless = {"sequence_id": 0, "sequence_start": False, "sequence_end": False, "priority": 0,
                "headers_of_mine": "x"}  # fmt: skip
    async with serve() as running:
        answer = await running.infer("affine", ROWS, parameters=harmless)
        assert answer.status_code == 200
        answer = await running.infer("affine", ROWS, parameters={"sequence_id": ""})
        assert answer.status_code == 200


LOADS: list[dict[str, Any]] = [
    {"config": '{"backend": "onnxruntime"}'},
    {"file:1/model.onnx": "AAAA"},
    {"config": "{}", "file:1/model.onnx": "AAAA"},
    {"anything": True},
]


async def test_a_load_that_brings_a_configuration_or_files_is_refused(
    serve: Serve, repository: Path
) -> None:
    labelled(repository)
    async with serve(repository_control=True) as running, Client(running) as client:
        load = "/v2/repository/models/affine/load"
        for parameters in LOADS:
            answer = await running.client.post(load, json={"parameters": parameters})
            assert answer.status_code == 400
            assert f"parameters.{min(parameters)}" in answer.json()["error"]
            request = pb.RepositoryModelLoadRequest(model_name="affine")
            for name, value in parameters.items():
                set_parameter(request.parameters, name, value)
            code, details = await refused_by_grpc(client, "RepositoryModelLoad", request)
            assert code == grpc.StatusCode.UNIMPLEMENTED
            assert f"parameters.{min(parameters)}" in details
        assert (await running.client.post(load, json={"parameters": []})).status_code == 400
        assert (await running.client.post(load, json={"parameters": {}})).status_code == 200
        request = pb.RepositoryModelLoadRequest(model_name="affine", repository_name="other")
        assert (await refused_by_grpc(client, "RepositoryModelLoad", request))[0] == (
            grpc.StatusCode.INVALID_ARGUMENT
        )
        answer = await running.client.post("/v2/repository/other/index")
        assert answer.status_code == 404
        unload = "/v2/repository/models/affine/unload"
        for parameters, status in (
            ({"unload_dependents": 1}, 400),
            ({"now": True}, 400),
            ({"unload_dependents": True}, 200),
        ):
            answer = await running.client.post(unload, json={"parameters": parameters})
            assert answer.status_code == status, parameters


async def test_text_that_is_no_utf8_is_refused_by_name_and_never_replaced(
    serve: Serve, repository: Path
) -> None:
    """ONNX Runtime's Python interface takes its strings as text, so it cannot be asked these."""
    small_models.put(repository, "text", "1", small_models.model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (TensorProto.STRING, ["n"])}, {"y": (TensorProto.STRING, ["n"])},
    ))  # fmt: skip
    wrong = b"\x03\x00\x00\x00a\xff\xfe"
    async with serve() as running, Client(running) as client:
        document = (
            b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],'
            b'"parameters":{"binary_data_size":7}}]}'
        )
        answer = await running.client.post(
            "/v2/models/text/infer", content=document + wrong,
            headers={"inference-header-content-length": str(len(document))},
        )  # fmt: skip
        assert answer.status_code == 400
        assert "'x': element 0 is no UTF-8" in answer.json()["error"]
        for request in (
            infer("text", "BYTES", [1], bytes_contents=[b"a\xff\xfe"]),
            pb.ModelInferRequest(
                model_name="text", inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}],
                raw_input_contents=[wrong],
            ),
        ):  # fmt: skip
            code, details = await refused_by_grpc(client, "ModelInfer", request)
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert "element 0 is no UTF-8" in details
        surrogate = await running.client.post(
            "/v2/models/text/infer", content=b'{"inputs":[{"name":"x","datatype":"BYTES",'
            b'"shape":[1],"data":["a\\ud800"]}]}',
        )  # fmt: skip
        assert surrogate.status_code == 400
        zero = infer("text", "BYTES", [2], bytes_contents=[b"a\x00", "ü".encode()])
        reply = await client.call("ModelInfer", zero)
        assert list(reply.outputs[0].contents.bytes_contents) == [b"a\x00", "ü".encode()]


async def test_pings_every_second_keep_the_connection(serve: Serve, repository: Path) -> None:
    """A client may ask often whether the server is there; at rest more than twice was too many."""
    labelled(repository)
    options = [
        ("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]  # fmt: skip
    async with serve() as running:
        address = f"127.0.0.1:{running.grpc_port}"
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            ask = channel.unary_unary(
                f"/{SERVICE}/ServerLive", pb.ServerLiveRequest.SerializeToString,
                pb.ServerLiveResponse.FromString,
            )  # fmt: skip
            assert (await ask(pb.ServerLiveRequest())).live
            state = channel.get_state()
            assert state == grpc.ChannelConnectivity.READY
            # GOAWAY "too_many_pings" would take the connection, and with it this state, away
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(channel.wait_for_state_change(state), 6)
            assert channel.get_state() == grpc.ChannelConnectivity.READY


async def test_the_version_is_the_packages_with_the_revision(
    serve: Serve, repository: Path
) -> None:
    labelled(repository)
    revision = "6A68001c0ffee6a68001"
    async with serve(source_revision=revision) as running, Client(running) as client:
        expected = version_of("slipway-inference", revision)
        assert expected.endswith("+6a68001c0ffe")
        document = (await running.client.get("/v2")).json()
        assert document["version"] == expected
        assert document["properties"]["revision"] == revision
        assert {"classification", "model_configuration"} <= set(document["extensions"])
        server = await client.call("ServerMetadata", pb.ServerMetadataRequest())
        assert server.version == expected
        assert (await running.client.get("/openapi.json")).json()["info"]["version"] == expected
        assert (await running.client.get("/")).json() == {"status": "alive"}


async def test_a_head_request_never_runs_a_model(serve: Serve, repository: Path) -> None:
    labelled(repository)
    async with serve() as running:
        (served,) = running.state.registry.all_serving()
        before = served.statistics.executions
        for path in ("/v2/models/affine/infer", "/v2/models/affine/versions/1/infer",
                     "/v1/models/affine:predict", "/invocations"):  # fmt: skip
            answer: httpx.Response = await running.client.request(
                "HEAD", path, json={"inputs": [ROWS], "instances": [[1, 2]]}
            )
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert served.statistics.executions == before
