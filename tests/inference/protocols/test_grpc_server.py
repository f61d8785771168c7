"""inference.protocols.grpc with a real gRPC client: the same answers and errors as over REST."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference.errors import BadRequest, TooLarge
from inference.protocols.grpc.messages import _beside_raw, decode
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from kit.oip.datatypes import NUMPY
from kit.oip.tensors import from_binary, to_binary
from kit.telemetry import spans
from tests.inference import small_models
from tests.inference.conftest import Running, Serve, hold_model, tensor, until
from tests.inference.test_app import SAMPLES

SERVICE = "inference.GRPCInferenceService"


class Client:
    """Calls by name."""

    def __init__(self, running: Running) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def call(self, name: str, request: Any, **options: Any) -> Any:
        answer = getattr(pb, pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
                         .methods_by_name[name].output_type.name)  # fmt: skip
        method = self.channel.unary_unary(
            f"/{SERVICE}/{name}", type(request).SerializeToString, answer.FromString
        )
        return method(request, **options)


def infer(model: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    return pb.ModelInferRequest(
        model_name=model,
        id="mine",
        inputs=[{"name": "x", "datatype": datatype, "shape": shape, "contents": contents}],
    )


def raw(model: str, values: np.ndarray, datatype: str) -> Any:
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[{"name": "x", "datatype": datatype, "shape": values.shape}],
        raw_input_contents=[to_binary(values)],
    )


async def test_every_datatype_goes_in_and_out(serve: Serve, repository: Path) -> None:
    from inference.protocols.grpc.messages import _CONTENTS

    for datatype in NUMPY:
        small_models.put(repository, datatype.lower(), "1", small_models.identity(datatype))
    async with serve() as running, Client(running) as client:
        for datatype, data in SAMPLES.items():
            values = np.array(data, dtype=NUMPY[datatype]).reshape(1, 2)
            answer = await client.call("ModelInfer", raw(datatype.lower(), values, datatype))
            assert (answer.outputs[0].name, answer.outputs[0].datatype) == ("y", datatype)
            back = from_binary("y", datatype, [1, 2], answer.raw_output_contents[0])
            assert back.tolist() == (
                [[text.encode() for text in data]] if datatype == "BYTES" else [data]
            )
            if datatype == "FP16":
                continue
            field = _CONTENTS[datatype]
            typed = [text.encode() for text in data] if datatype == "BYTES" else data
            request = infer(datatype.lower(), datatype, [1, 2], **{field: typed})
            answer = await client.call("ModelInfer", request)
            assert answer.id == "mine"
            assert list(getattr(answer.outputs[0].contents, field)) == typed


async def test_the_descriptions(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve(repository_control=True) as running, Client(running) as client:
        assert (await client.call("ServerLive", pb.ServerLiveRequest())).live
        assert (await client.call("ServerReady", pb.ServerReadyRequest())).ready
        assert (await client.call("ModelReady", pb.ModelReadyRequest(name="affine"))).ready
        server = await client.call("ServerMetadata", pb.ServerMetadataRequest())
        assert server.name == "slipway-inference"
        model = await client.call("ModelMetadata", pb.ModelMetadataRequest(name="affine"))
        assert list(model.versions) == ["1"]
        assert list(model.inputs[0].shape) == [-1, 2]
        values = np.ones((3, 2), np.float32)
        await client.call("ModelInfer", raw("affine", values, "FP32"))
        statistics = await client.call("ModelStatistics", pb.ModelStatisticsRequest())
        assert statistics.model_stats[0].inference_count == 3
        small_models.put(repository, "affine", "2", small_models.affine())
        await client.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="affine"))
        index = await client.call("RepositoryIndex", pb.RepositoryIndexRequest())
        assert [(row.version, row.state) for row in index.models] == [
            ("1", "READY"),
            ("2", "READY"),
        ]
        unload = pb.RepositoryModelUnloadRequest(model_name="affine")
        await client.call("RepositoryModelUnload", unload)
        assert not (await client.call("ModelReady", pb.ModelReadyRequest(name="affine"))).ready


BAD = {
    "unknown model": (infer("none", "FP32", [1, 2]), "NOT_FOUND", "'none'"),
    "no inputs": (pb.ModelInferRequest(model_name="affine"), "INVALID_ARGUMENT", "inputs must be"),
    "wrong dtype": (
        infer("affine", "INT64", [1, 2], int64_contents=[1, 2]), "INVALID_ARGUMENT", "'x' is FP32",
    ),
    "wrong shape": (
        infer("affine", "FP32", [1, 3], fp32_contents=[1, 2, 3]), "INVALID_ARGUMENT", "'x' has",
    ),
    "negative shape": (
        infer("affine", "FP32", [-1, 2], fp32_contents=[1, 2]), "INVALID_ARGUMENT", "negative",
    ),
    "too few": (infer("affine", "FP32", [1, 2], fp32_contents=[1]), "INVALID_ARGUMENT", "has 1"),
    "two fields of contents": (
        infer("affine", "FP32", [1, 2], fp32_contents=[1, 2], int_contents=[3, 4]),
        "INVALID_ARGUMENT", "contents.int_contents is filled",
    ),
    "wrong field": (
        infer("affine", "FP32", [1, 2], fp64_contents=[1, 2]), "INVALID_ARGUMENT", "fp32_contents",
    ),
    "truncated": (
        pb.ModelInferRequest(
            model_name="affine",
            inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
            raw_input_contents=[b"1234567"],
        ), "INVALID_ARGUMENT", "takes 8 bytes, got 7",
    ),
    "raw for another": (
        pb.ModelInferRequest(
            model_name="affine",
            inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
            raw_input_contents=[b"", b""],
        ), "INVALID_ARGUMENT", "2 elements for 1 inputs",
    ),
    "many digits": (
        pb.ModelInferRequest(model_name="affine", parameters={"timeout":
            pb.InferParameter(string_param="9" * 400)}), "INVALID_ARGUMENT", "parameters.timeout",
    ),
    "a name too long for a status": (
        pb.ModelInferRequest(model_name="affine", inputs=[{"name": "x" * 50_000}]),
        "INVALID_ARGUMENT", "input 'xxx",
    ),
    "empty and huge": (
        infer("wide", "FP32", [0, 2**62]), "INVALID_ARGUMENT", "input 'x': shape",
    ),
    "empty, huge and raw": (
        pb.ModelInferRequest(
            model_name="wide",
            inputs=[{"name": "x", "datatype": "FP32", "shape": [0, 2**62]}],
            raw_input_contents=[b""],
        ), "INVALID_ARGUMENT", "input 'x': shape",
    ),
}  # fmt: skip


async def test_what_is_wrong_has_its_status_and_serving_goes_on(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    small_models.put(repository, "wide", "1", small_models.identity("FP32", ["rows", "width"]))
    async with serve() as running, Client(running) as client:
        for name, (request, code, names) in BAD.items():
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await client.call("ModelInfer", request)
            assert error.value.code().name == code, name
            assert names in (error.value.details() or ""), (name, error.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            load = pb.RepositoryModelLoadRequest(model_name="affine")
            await client.call("RepositoryModelLoad", load)
        assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
        good = infer("affine", "FP32", [1, 2], fp32_contents=[1, 2])
        call = client.call("ModelInfer", good, metadata=(("x-request-id", "r1"),))
        assert list((await call).outputs[0].contents.fp32_contents) == [3.0, 5.0]
        trailing = dict(await call.trailing_metadata())
        assert trailing["x-request-id"] == "r1"
        assert trailing["x-slipway-model-version"] == "1"
        assert running.state.engine.in_flight == 0


async def test_deadline_overload_and_cancellation(serve: Serve, repository: Path) -> None:
    batching = {"max_batch_size": 1, "max_queue_size": 2}
    small_models.put(repository, "slow", "1", small_models.slow(1), batching=batching)
    request = infer("slow", "FP32", [1, 4], fp32_contents=[1, 2, 3, 4])
    async with serve(target_wait_ms=3_600_000) as running, Client(running) as client:
        (served,) = running.state.registry.all_serving()

        async def outcome(**options: Any) -> str:
            try:
                await client.call("ModelInfer", request, **options)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        model = hold_model(served)
        running_one = asyncio.create_task(outcome())
        await until(lambda: served.batcher.running_batches == 1)
        assert await outcome(timeout=0.05) == "DEADLINE_EXCEEDED"
        await until(lambda: served.batcher.queued_rows == 0)
        waiting = [asyncio.create_task(outcome()) for _ in range(2)]
        await until(lambda: served.batcher.queued_rows == 2)
        assert await outcome() == "RESOURCE_EXHAUSTED"
        model.opened.set()
        assert await asyncio.gather(running_one, *waiting) == ["OK"] * 3
        model.opened.clear()
        ahead = [asyncio.create_task(outcome()) for _ in range(2)]
        await until(lambda: served.batcher.queued_rows == 1)
        call = client.call("ModelInfer", request)
        await until(lambda: served.batcher.queued_rows == 2)
        call.cancel()
        await until(lambda: served.batcher.queued_rows < 2)
        model.opened.set()
        assert await asyncio.gather(*ahead) == ["OK", "OK"]
        await until(lambda: running.state.engine.in_flight == 0)
        assert served.leases == 0


async def test_health_follows_readiness_and_reflection_names_the_service(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running, Client(running) as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        states = health_pb2.HealthCheckResponse
        async for seen in watch:
            if seen.status == states.SERVING:
                break
        running.health.draining = True
        async for seen in watch:
            if seen.status == states.NOT_SERVING:
                break
        watch.cancel()

        def names() -> list[str]:
            with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
                return list(ProtoReflectionDescriptorDatabase(channel).get_services())

        assert SERVICE in await asyncio.to_thread(names)


async def test_a_mirrored_call_is_marked_and_a_call_without_a_trace_starts_one(
    serve: Serve, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found: over gRPC neither was done."""
    small_models.put(repository, "affine", "1", small_models.affine())
    good = infer("affine", "FP32", [1, 2], fp32_contents=[1, 2])
    exporter = InMemorySpanExporter()
    async with serve(prediction_log="stdout") as running, Client(running) as client:
        running.state.engine.outcomes.spans = spans.configure("inference", exporter=exporter)
        await client.call("ModelInfer", good)
        await client.call("ModelInfer", good, metadata=(("x-slipway-shadow", "true"),))
    lines = [line for line in capfd.readouterr().out.splitlines() if '"specversion"' in line]
    events = [json.loads(line) for line in lines]
    assert [event["data"]["mirrored"] for event in events] == [False, True]
    assert events[1]["type"] == "slipway.prediction.mirrored.v1"
    traces = [format(span.context.trace_id, "032x") for span in exporter.get_finished_spans()]
    assert [event["data"]["trace_id"] for event in events] == traces
    assert len(set(traces)) == 2


RAW = st.lists(st.binary(max_size=300), max_size=4)


@given(RAW, st.text(max_size=300), st.lists(st.floats(width=32), max_size=50), st.binary())
def test_what_is_beside_raw_contents_is_counted_by_the_message_itself(
    raw_contents: list[bytes], identity: str, values: list[float], more: bytes
) -> None:
    message = pb.ModelInferRequest(
        id=identity, inputs=[{"contents": {"fp32_contents": values}}],
        raw_input_contents=raw_contents,
    ).SerializeToString()  # fmt: skip
    for unknown in (b"", b"\x40\x3a", b"\x41" + b"\x3a" * 8, b"\x45" + b"\x3a" * 4):
        whole = unknown + message
        beside = len(whole) - sum(map(len, raw_contents))
        assert _beside_raw(whole, 10**9)[0] == beside
        decode(whole, beside)
        if len(whole) > beside:
            with pytest.raises(TooLarge):
                decode(whole, beside - 1)
    with contextlib.suppress(BadRequest, TooLarge):
        decode(more, 3)


async def test_what_is_no_message_is_the_callers_fault(serve: Serve, repository: Path) -> None:
    """It was INTERNAL, said by the library."""
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running, Client(running) as client:
        call = client.channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for message in (b"\xff", b"\x2a\x7f", b"\x0b"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(message)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert running.state.engine.in_flight == 0


async def test_both_protocols_give_the_same(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running, Client(running) as client:
        values = np.random.default_rng(3).standard_normal((7, 2), np.float32)
        over_grpc = await client.call("ModelInfer", raw("affine", values, "FP32"))
        over_rest = await running.infer("affine", tensor("x", "FP32", [7, 2], values.tolist()))
        got = np.frombuffer(over_grpc.raw_output_contents[0], np.float32)
        assert got.tolist() == pytest.approx(over_rest.json()["outputs"][0]["data"])


def raw_texts(shape: list[int], contents: bytes) -> Any:
    tensor = {"name": "x", "datatype": "BYTES", "shape": shape}
    return pb.ModelInferRequest(model_name="text", inputs=[tensor], raw_input_contents=[contents])


@pytest.mark.parametrize(
    "field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00"], ids=["input", "output", "raw"]
)
def test_very_many_fields_are_refused_before_they_are_decoded(field: bytes) -> None:
    """Found: 4 MB of empty inputs took 176 MiB, 40 MB of empty contents were walked for 21 s."""
    with pytest.raises(TooLarge, match="more than 10000 fields"):
        decode(field * 10_001, 10**9)
    decode(field * 10_000, 10**9)


async def test_tensors_that_say_much_are_refused_before_anything_is_made_of_them(
    serve: Serve, repository: Path
) -> None:
    """Found: 15 million texts of no characters were read one by one, for 38 s."""
    small_models.put(repository, "text", "1", small_models.identity("BYTES", ["rows"]))
    many = 1_000_001
    wrong = {
        "1000001 BYTES elements": infer("text", "BYTES", [many], bytes_contents=[b""] * many),
        "at most 1000000 are accepted": raw_texts([many], bytes(4 * many)),
        "shape has 100000 dimensions": infer("text", "BYTES", [1] * 100_000, bytes_contents=[b"a"]),
    }
    async with serve() as running, Client(running) as client:
        for said, request in wrong.items():
            with pytest.raises(grpc.aio.AioRpcError, match=said) as refused:
                await client.call("ModelInfer", request)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        good = infer("text", "BYTES", [2], bytes_contents=[b"a", b"b"])
        assert (await client.call("ModelInfer", good)).outputs[0].shape == [2]


async def test_texts_count_with_what_they_take_as_objects(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "text", "1", small_models.identity("BYTES", ["rows"]))
    async with (
        serve(body_memory_bytes=1 << 20, max_queue_size=100_000) as running,
        Client(running) as client,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.call("ModelInfer", raw_texts([20_000], bytes(80_000)))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.call("ModelInfer", raw_texts([2_000], bytes(8_000)))
