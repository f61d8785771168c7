"""The server under pressure: overload, deadlines, hang-ups, large bodies, signals.

Runs of the model are held at a gate, so nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import signal
import sys
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from inference.protocols import rest_v2, sagemaker, v1
from inference.protocols.grpc import server as grpc_server
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from inference.server import state as server_state
from kit.transforms import Undecoded
from tests.inference import small_models
from tests.inference.conftest import (
    Gate,
    Running,
    Serve,
    hold_model,
    probes_answer,
    tensor,
    until,
    until_seen,
)

ROW = tensor("x", "FP32", [1, 4], [1, 2, 3, 4])
PATH = "/v2/models/slow/infer"
PATIENT = 3_600_000
"""Milliseconds that nobody waits for, so that a gate may be held."""


@pytest.fixture
def slow(repository: Path) -> Path:
    """One row at a time, four that wait."""
    batching = {"max_batch_size": 1, "max_queue_size": 4}
    return small_models.put(repository, "slow", "1", small_models.slow(1), batching=batching)


def raw(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: a", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_past_what_it_answers_in_time_a_model_refuses_and_answers_the_rest(
    serve: Serve, slow: Path
) -> None:
    async with serve(target_wait_ms=PATIENT) as running:
        (served,) = running.state.registry.all_serving()
        model = hold_model(served)
        open_at_most = served.admission.limit
        assert open_at_most == 5, "four that wait, and one that is run"
        ahead = [asyncio.create_task(running.infer("slow", ROW))]
        await until(lambda: served.batcher.running_batches == 1)
        ahead += [asyncio.create_task(running.infer("slow", ROW)) for _ in range(open_at_most - 1)]
        await until(lambda: running.state.engine.in_flight == open_at_most)
        for _ in range(3):
            refused = await running.infer("slow", ROW)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "try again later" in refused.json()["error"]
        assert running.state.engine.outcomes.refused["overloaded"] == 3
        model.opened.set()
        assert {answer.status_code for answer in await asyncio.gather(*ahead)} == {200}
        assert (await running.infer("slow", ROW)).status_code == 200
        await until(lambda: running.state.engine.in_flight == served.admission.open == 0)


async def test_one_model_that_is_full_refuses_nothing_of_another(
    serve: Serve, slow: Path, repository: Path
) -> None:
    """Found: one count for all models, so that a slow one took every place."""
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve(target_wait_ms=PATIENT) as running:
        served = running.state.registry.get("slow")
        model = hold_model(served)
        ahead = [asyncio.create_task(running.infer("slow", ROW))]
        await until(lambda: served.batcher.running_batches == 1)
        left = served.admission.limit - 1
        ahead += [asyncio.create_task(running.infer("slow", ROW)) for _ in range(left)]
        await until(lambda: running.state.engine.full(served))
        assert (await running.infer("slow", ROW)).status_code == 429
        other = await running.infer("affine", tensor("x", "FP32", [1, 2], [1, 2]))
        assert other.status_code == 200
        model.opened.set()
        assert {answer.status_code for answer in await asyncio.gather(*ahead)} == {200}


@pytest.mark.parametrize("how", ["parameter", "header", "default"])
async def test_past_its_time_a_request_gets_504(serve: Serve, slow: Path, how: str) -> None:
    async with serve(default_timeout_seconds=0.001 if how == "default" else 30) as running:
        model = hold_model(running.state.registry.get("slow"))
        request: dict[str, object] = {"inputs": [ROW]}
        headers = {}
        if how == "parameter":
            request["parameters"] = {"timeout": 1000}
        elif how == "header":
            headers["x-request-timeout"] = "1ms"
        answer = await running.client.post(PATH, json=request, headers=headers)
        assert answer.status_code == 504
        assert "time ran out" in answer.json()["error"]
        model.opened.set()
        later = await running.client.post(
            PATH, json={"inputs": [ROW]}, headers={"x-request-timeout": "30"}
        )
        assert later.status_code == 200


async def test_the_deadline_counts_the_queue_and_frees_the_place(serve: Serve, slow: Path) -> None:
    async with serve(target_wait_ms=PATIENT) as running:
        (served,) = running.state.registry.all_serving()
        model = hold_model(served)
        before = served.statistics.executions
        ahead = [asyncio.create_task(running.infer("slow", ROW)) for _ in range(3)]
        await until(lambda: served.batcher.queued_rows == 2)
        # long enough to be in the queue by then, and ended there: the model is held
        late = await running.client.post(
            PATH, json={"inputs": [ROW]}, headers={"x-request-timeout": "2"}
        )
        assert late.status_code == 504
        assert "in the queue" in late.json()["error"]
        model.opened.set()
        assert [answer.status_code for answer in await asyncio.gather(*ahead)] == [200] * 3
        assert served.statistics.executions == before + 3


@pytest.mark.parametrize("chunked", [False, True], ids=["short", "long"])
async def test_who_hangs_up_frees_its_place(
    serve: Serve, slow: Path, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    async with serve(target_wait_ms=PATIENT) as running:
        (served,) = running.state.registry.all_serving()
        gate = Gate()
        monkeypatch.setattr(served.model, "run", gate.around(served.model.run))
        ahead = [asyncio.create_task(running.infer("slow", ROW)) for _ in range(4)]
        await until(lambda: served.batcher.queued_rows == 3)
        body = json.dumps({"inputs": [ROW]}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        if chunked:
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % PATH.encode()
                + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            )
        else:
            writer.write(raw(PATH, body))
        failures = served.statistics.failures
        await until(lambda: running.state.engine.in_flight == 5)
        writer.close()
        await writer.wait_closed()
        await until(lambda: failures["cancelled"] == 1)
        gate.opened.set()
        assert all(answer.status_code == 200 for answer in await asyncio.gather(*ahead))
        await until(lambda: running.state.engine.in_flight == 0)
        assert served.leases == 0


async def test_who_hangs_up_in_the_middle_of_a_body_leaves_nothing(
    serve: Serve, slow: Path
) -> None:
    async with serve() as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(raw(PATH, b"x" * 1000)[:-500])
        refused = running.state.engine.outcomes.refused
        writer.close()
        await writer.wait_closed()
        await until(lambda: refused["cancelled"] == 1)
        assert running.state.engine.in_flight == 0


INCOMPLETE = {
    "short": raw(PATH, b"x" * 1000)[:-500],
    "long": b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    % PATH.encode(),
    "v1": raw("/v1/models/slow:predict", b"x" * 1000)[:-500],
    "sagemaker": raw("/invocations", b"x" * 1000)[:-500],
    "index": raw("/v2/repository/index", b"x" * 1000)[:-500],
}


@pytest.mark.parametrize("way", INCOMPLETE)
async def test_who_does_not_send_its_body_takes_nobodys_place_and_is_told_in_time(
    serve: Serve, slow: Path, way: str
) -> None:
    """Found: places were taken before the body was read, and for as long as it took."""
    async with serve(max_in_flight=1, default_timeout_seconds=0.5) as running:
        callers = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(INCOMPLETE[way])
            callers.append((reader, writer))
        connections = running.connections
        await until(lambda: len(connections()) >= 4)
        answer = await running.client.post(
            PATH, json={"inputs": [ROW]}, headers={"x-request-timeout": "30"}
        )
        assert answer.status_code == 200
        for reader, writer in callers:
            said = await asyncio.wait_for(reader.read(), 20)
            assert said.startswith(b"HTTP/1.1 408 "), said
            assert b"connection: close" in said.lower()
            assert b'"error"' in said
            writer.close()
        assert running.state.engine.in_flight == 0


@pytest.mark.parametrize("path", ["/v1/models/slow:predict", "/invocations", PATH + "?"])
async def test_every_protocol_obeys_the_same_limit_before_it_reads_the_body(
    serve: Serve, slow: Path, path: str
) -> None:
    async with serve(max_in_flight=1) as running:
        served = running.state.registry.get("slow")
        model = hold_model(served)
        ahead = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: running.state.engine.full(served))
        refused = await running.client.post(
            path, content=b"nothing that could be parsed", headers={"x-request-id": "refused-one"}
        )
        assert refused.status_code == 429
        assert refused.headers["x-request-id"] == "refused-one"
        assert running.state.engine.outcomes.refused["overloaded"] == 1
        model.opened.set()
        assert (await ahead).status_code == 200


async def test_grpc_obeys_the_same_limit_before_it_decodes(serve: Serve, slow: Path) -> None:
    async with serve(max_in_flight=1) as running:
        served = running.state.registry.get("slow")
        model = hold_model(served)
        ahead = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: running.state.engine.full(served))
        message = pb.ModelInferRequest(model_name="slow").SerializeToString()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(message + b"\xff\xff that is no message")
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert running.state.engine.outcomes.refused["overloaded"] == 1
        model.opened.set()
        assert (await ahead).status_code == 200


async def test_probes_answer_while_the_model_works(serve: Serve, slow: Path) -> None:
    """The run happens off the loop: a probe never has to wait for one to end."""
    async with serve() as running:
        (served,) = running.state.registry.all_serving()
        model = hold_model(served)
        prediction = asyncio.create_task(running.infer("slow", ROW))
        await until(lambda: len(model.threads) == 1)
        await probes_answer(running)
        assert served.batcher.running_batches == 1
        model.opened.set()
        assert (await prediction).status_code == 200


ROWS = 60_000
NUMBERS = np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2)
LARGE_ENTRY = {"name": "x", "datatype": "FP32", "shape": [ROWS, 2]}
BINARY_HEAD = json.dumps(
    {"inputs": [LARGE_ENTRY | {"parameters": {"binary_data_size": NUMBERS.nbytes}}]}
).encode()
BINARY = f"application/vnd.sagemaker-triton.binary+json;json-header-size={len(BINARY_HEAD)}"
INSTANCES = json.dumps({"instances": NUMBERS.tolist()}).encode()
CSV = "".join(f"{first},{second}\n" for first, second in NUMBERS.tolist()).encode()
V2 = json.dumps({"inputs": [LARGE_ENTRY | {"data": NUMBERS.ravel().tolist()}]}).encode()

LARGE: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "v2 JSON": ("/v2/models/affine/infer", V2, {}),
    "v2 binary": (
        "/v2/models/affine/infer",
        BINARY_HEAD + NUMBERS.tobytes() + b" " * 1024 * 1024,
        {"inference-header-content-length": str(len(BINARY_HEAD))},
    ),
    "compressed": (
        "/v2/models/affine/infer",
        gzip.compress(V2[:-1] + b" " * 1024 * 1024 + V2[-1:]),
        {"content-encoding": "gzip"},
    ),
    "compressed a thousandfold": (
        "/v2/models/affine/infer",
        gzip.compress(b" " * 4 * 1024 * 1024),
        {"content-encoding": "gzip"},
    ),
    "v1": ("/v1/models/affine:predict", INSTANCES, {}),
    "sagemaker JSON": ("/invocations", INSTANCES, {"content-type": "application/json"}),
    "sagemaker CSV": ("/invocations", CSV, {"content-type": "text/csv"}),
    "sagemaker binary": (
        "/invocations", BINARY_HEAD + NUMBERS.tobytes(), {"content-type": BINARY}
    ),
    "grpc typed": ("typed", b"", {}),
    "grpc raw": ("raw", b"", {}),
}  # fmt: skip


NO_REQUESTS = ("v2 binary", "compressed a thousandfold")
"""What is large for the sake of it."""


async def send_large(running: Running, way: str) -> int:
    """The status a large request gets; gRPC's OK is 200."""
    path, body, headers = LARGE[way]
    if not way.startswith("grpc"):
        return (await running.client.post(path, content=body, headers=headers)).status_code
    request = pb.ModelInferRequest(model_name="affine", inputs=[LARGE_ENTRY])
    if path == "typed":
        request.inputs[0].contents.fp32_contents.extend(NUMBERS.ravel().tolist())
    else:
        request.raw_input_contents.append(NUMBERS.tobytes())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        await call(request)
    return 200


def hold_parsers(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate before everything that reads a body."""
    gate = Gate()
    for module, name in (
        (server_state, "unpack"), (rest_v2, "parse"), (v1, "read"), (sagemaker, "read"),
        (grpc_server, "decode"), (grpc_server, "parse"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, gate.around(getattr(module, name)))
    return gate


@pytest.mark.parametrize("way", LARGE)
async def test_probes_answer_while_a_large_body_is_parsed(
    serve: Serve, repository: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: V1, SageMaker and gRPC parsed on the loop, up to 64 MiB of CSV cell by cell."""
    small_models.put(repository, "affine", "1", small_models.affine())
    gate = hold_parsers(monkeypatch)
    async with serve(max_queue_size=ROWS) as running:
        call = asyncio.create_task(send_large(running, way))
        await until(lambda: bool(gate.threads))
        for _ in range(3):
            await probes_answer(running)
        assert not call.done()
        gate.opened.set()
        assert await call == (400 if way in NO_REQUESTS else 200)
    assert gate.loop_thread not in gate.threads


@pytest.mark.parametrize("way", [way for way in LARGE if way not in NO_REQUESTS])
async def test_a_reload_while_a_large_body_is_parsed_fails_no_request(
    serve: Serve, repository: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the version was leased after the parse, and its batcher closed meanwhile: 503."""
    small_models.put(repository, "affine", "1", small_models.affine())
    gate = hold_parsers(monkeypatch)
    if way.startswith("grpc"):  # the model is looked up when the message is decoded
        monkeypatch.undo()
        monkeypatch.setattr(grpc_server, "parse", gate.around(grpc_server.parse))
    async with serve(max_queue_size=ROWS) as running:
        (served,) = running.state.registry.all_serving()
        call = asyncio.create_task(send_large(running, way))
        await until(lambda: bool(gate.threads))
        small_models.put(repository, "affine", "1", small_models.affine(1, 1))
        await running.state.registry.load("affine")
        assert running.state.registry.all_serving() != [served]
        gate.opened.set()
        assert await call == 200
        await until(lambda: served.leases == 0)


async def test_csv_and_typed_contents_have_the_limit_of_json(
    serve: Serve, repository: Path
) -> None:
    """Found: only JSON had it, though a cell of CSV costs more than a number of JSON."""
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve(max_queue_size=ROWS, max_json_bytes=1000) as running:
        for way in ("v2 JSON", "v1", "sagemaker JSON", "sagemaker CSV"):
            assert await send_large(running, way) == 413
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await send_large(running, "grpc typed")
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "raw_input_contents" in (error.value.details() or "")
        for way in ("sagemaker binary", "grpc raw"):
            assert await send_large(running, way) == 200
    async with serve(max_queue_size=ROWS, max_json_bytes=len(BINARY_HEAD) - 1) as running:
        assert await send_large(running, "sagemaker binary") == 413


async def test_a_body_past_the_limit_is_refused_by_its_length_and_by_its_bytes(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    path = "/v2/models/affine/infer"

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 1024

    async with serve(max_body_bytes=8 * 1024) as running:
        announced = await running.client.post(path, content=b" " * 9000)
        assert announced.status_code == 413
        assert "8192" in announced.json()["error"]
        # the rest is read and dropped: closing at once would take the answer from the caller
        counted = await running.client.post(path, content=endless())
        assert counted.status_code == 413
        assert running.state.engine.in_flight == 0


async def test_json_that_would_hold_up_the_loop_is_refused_binary_is_not(
    serve: Serve, repository: Path
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    values = np.zeros((1000, 2), np.float32)
    async with serve(max_json_bytes=2000) as running:
        as_json = await running.infer("affine", tensor("x", "FP32", [1000, 2], values.tolist()))
        assert as_json.status_code == 413
        assert "binary" in as_json.json()["error"]
        entry = {"name": "x", "datatype": "FP32", "shape": [1000, 2],
                 "parameters": {"binary_data_size": values.nbytes}}  # fmt: skip
        head = json.dumps({"inputs": [entry]}).encode()
        answer = await running.client.post(
            "/v2/models/affine/infer",
            content=head + values.tobytes(),
            headers={"inference-header-content-length": str(len(head))},
        )
        assert answer.status_code == 200


async def test_compressed_bodies_are_read_and_bombs_are_not(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    row = tensor("x", "FP32", [1, 2], [1, 2])
    body = json.dumps({"inputs": [row]}).encode()

    async def send(running: Running, content: bytes, encoding: str) -> httpx.Response:
        return await running.client.post(
            "/v2/models/affine/infer", content=content, headers={"content-encoding": encoding}
        )

    async with serve(max_body_bytes=100_000) as running:
        assert (await send(running, gzip.compress(body), "gzip")).status_code == 200
        assert (await send(running, zlib.compress(body), "deflate")).status_code == 200
        bomb = await send(running, gzip.compress(b" " * 10_000_000), "gzip")
        assert bomb.status_code == 413
        assert (await send(running, gzip.compress(body)[:-9], "gzip")).status_code == 400
        assert (await send(running, body, "gzip")).status_code == 400
        assert (await send(running, body, "br")).status_code == 415


STEPS = [
    {"transform": "decode_image", "mode": "L"},
    {"transform": "resize", "width": 2, "height": 1},
    {"transform": "scale"},
    {"transform": "reshape", "shape": [2]},
]


def pictures(count: int) -> dict[str, Any]:
    """An input of so many images."""
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, format="PNG")
    text = base64.b64encode(file.getvalue()).decode()
    return tensor("x", "BYTES", [count], [text] * count)


async def test_images_wait_in_threads_not_on_the_loop(
    serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that hangs up while its picture is prepared is not answered, and not counted on."""
    small_models.put(repository, "seen", "1", small_models.affine(), preprocess=STEPS)
    async with serve() as running:
        junk = await running.infer("seen", tensor("x", "BYTES", [1], ["AAAA"]))
        assert junk.status_code == 400
        assert "no PNG, JPEG or WebP" in junk.json()["error"]
        (served,) = running.state.registry.all_serving()
        gate = Gate()
        monkeypatch.setattr(Undecoded, "row", gate.around(Undecoded.row))
        before = served.statistics.executions
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        body = json.dumps({"inputs": [pictures(3)]}).encode()
        writer.write(raw("/v2/models/seen/infer", body))
        await until(lambda: bool(gate.threads))
        assert running.state.engine.in_flight == served.leases == 1
        await probes_answer(running)
        writer.close()
        await writer.wait_closed()
        await until(lambda: served.statistics.failures["cancelled"] == 1)
        assert running.state.engine.in_flight == served.leases == 0
        gate.opened.set()
        assert (await running.infer("seen", pictures(1))).status_code == 200
        assert served.statistics.executions == before + 1
    assert len(gate.threads) == 2, "the pictures of a caller that is gone are left alone"
    assert all(thread.name.startswith("decode") for thread in gate.threads)


async def test_images_past_their_time_or_without_room_are_not_prepared(
    serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: all of a request's images were prepared whatever had become of it."""
    small_models.put(repository, "seen", "1", small_models.affine(), preprocess=STEPS)
    async with serve(max_queue_size=8) as running:
        gate = Gate()
        monkeypatch.setattr(Undecoded, "row", gate.around(Undecoded.row))
        many = await running.infer("seen", pictures(9))
        assert many.status_code == 413
        assert not gate.threads
        late = await running.client.post(
            "/v2/models/seen/infer",
            json={"inputs": [pictures(8)]},
            headers={"x-request-timeout": "50ms"},
        )
        assert late.status_code == 504
        gate.opened.set()
        assert (await running.infer("seen", pictures(2))).status_code == 200
        assert len(gate.threads) <= 3


async def test_sigterm_under_load_fails_no_request(repository: Path) -> None:
    """The real process: unready, serving on, drained, gone with status 0."""
    small_models.put(repository, "slow", "1", small_models.slow(), batching={})
    environment = {
        **os.environ,
        "INFERENCE_MODEL_REPOSITORY": str(repository),
        "INFERENCE_HOST": "127.0.0.1",
        "INFERENCE_PORT": "0",
        "INFERENCE_GRPC_PORT": "0",
        "INFERENCE_STOP_DELAY_SECONDS": "0.3",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inference.cli", "serve",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    port, loaded = 0, False
    async with asyncio.timeout(30):
        while not (port and loaded):
            line = (await process.stdout.readline()).decode()
            assert line, "the server ended"
            loaded = loaded or '"model loaded"' in line
            said = json.loads(line)
            if said["message"] == "listening":
                port = said["port"]
    drain = asyncio.create_task(process.stdout.read())
    answered: list[int] = []
    stop_at = [float("inf")]

    async def caller(client: httpx.AsyncClient) -> None:
        while time.monotonic() < stop_at[0]:
            answer = await client.post(PATH, json={"inputs": [ROW]})
            answered.append(answer.status_code)

    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=20, verify=False
    ) as client:
        callers = [asyncio.create_task(caller(client)) for _ in range(4)]
        await until(lambda: len(answered) >= 8)
        process.send_signal(signal.SIGTERM)

        async def unready() -> bool:
            return (await client.get("/readyz")).status_code == 503

        await until_seen(unready)
        assert (await client.get("/livez")).status_code == 200
        stop_at[0] = time.monotonic()  # by now routes would have changed
        await asyncio.gather(*callers)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    await drain
    assert set(answered) == {200}
