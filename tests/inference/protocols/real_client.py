"""What Triton's own clients see of the server: run with them installed, prints JSON.

It is a program of its own because the client brings its own copy of the protocol's messages,
which one process cannot hold twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from google.protobuf import json_format


def ask(module: Any, address: str) -> dict[str, Any]:
    """Go through the client's calls; what they give, as JSON has it."""
    client = module.InferenceServerClient(address)
    rows = module.InferInput("x", [2, 2], "FP32")
    rows.set_data_from_numpy(np.array([[1, 2], [3, 4]], np.float32))
    whole = client.infer("affine", [rows], request_id="mine", timeout=5_000_000)
    one = client.infer("affine", [rows], outputs=[module.InferRequestedOutput("y")])
    text = module.InferInput("x", [1, 2], "BYTES")
    text.set_data_from_numpy(np.array([["Grüße".encode(), b"b"]], dtype=object))
    seen = {
        "ready": [
            client.is_server_live(),
            client.is_server_ready(),
            client.is_model_ready("affine"),
        ],
        "whole": whole.as_numpy("y").tolist(),
        "one": one.as_numpy("y").tolist(),
        "text": [value.decode() for value in client.infer("bytes", [text]).as_numpy("y").ravel()],
    }
    try:
        client.infer("absent", [rows])
    except tritonclient.utils.InferenceServerException as error:
        seen["absent"] = [error.status(), error.message()]
    client.load_model("affine")
    client.unload_model("affine")
    seen["gone"] = client.is_model_ready("affine")
    client.load_model("affine")
    client.get_inference_statistics("affine")
    client.get_model_repository_index()
    wanted = [module.InferRequestedOutput("y", class_count=1)]
    classes = client.infer("affine", [rows], outputs=wanted).as_numpy("y")
    seen["classes"] = [value.decode() for value in classes.ravel()]
    config = client.get_model_config("affine")
    config = config if isinstance(config, dict) else json_format.MessageToDict(
        config.config, preserving_proto_field_name=True
    )  # fmt: skip
    seen["config"] = [config["name"], config["max_batch_size"], config["input"][0]["data_type"]]
    output = module.InferRequestedOutput("y")
    output.set_shared_memory("region", 16)
    shared = module.InferInput("x", [2, 2], "FP32")
    shared.set_shared_memory("region", 16)
    seen["refused"] = [
        refusal(lambda: client.infer("affine", [shared])),
        refusal(lambda: client.infer("affine", [rows], outputs=[output])),
        refusal(lambda: client.infer("affine", [rows], sequence_id=7, sequence_start=True)),
        refusal(lambda: client.load_model("affine", config="{}")),
        refusal(lambda: client.load_model("affine", config="{}", files={"file:1/a": b"b"})),
        refusal(client.get_system_shared_memory_status),
        refusal(client.get_cuda_shared_memory_status),
        refusal(lambda: client.register_system_shared_memory("region", "/region", 16)),
        refusal(client.get_trace_settings),
        refusal(lambda: client.update_trace_settings("affine", {"trace_level": ["TENSORS"]})),
        refusal(client.get_log_settings),
        refusal(lambda: client.update_log_settings({"log_verbose_level": 1})),
    ]
    return seen


def refusal(call: Callable[[], Any]) -> str:
    """What the client raises."""
    try:
        return f"no refusal: {call()}"
    except tritonclient.utils.InferenceServerException as error:
        return error.message()


async def ask_aio(module: Any, address: str) -> list[list[float]]:
    """The asynchronous client."""
    async with module.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        rows = module.InferInput("x", [1, 2], "FP32")
        rows.set_data_from_numpy(np.array([[1, 2]], np.float32))
        answers = await asyncio.gather(*(client.infer("affine", [rows]) for _ in range(16)))
        return [answer.as_numpy("y").ravel().tolist() for answer in answers]


def stream(address: str) -> str:
    """What the stream of the gRPC client says."""
    said: queue.Queue[Any] = queue.Queue()
    client = tritonclient.grpc.InferenceServerClient(address)
    rows = tritonclient.grpc.InferInput("x", [1, 2], "FP32")
    rows.set_data_from_numpy(np.array([[1, 2]], np.float32))
    client.start_stream(lambda result, error: said.put(error or result))
    with contextlib.suppress(tritonclient.utils.InferenceServerException):
        client.async_stream_infer("affine", [rows])  # raises where the refusal was faster
    error = said.get(timeout=30)
    client.stop_stream()
    return str(error)


def ask_http(address: str) -> dict[str, Any]:
    """The forms only HTTP has: JSON tensors, compressed."""
    module = tritonclient.http
    client = module.InferenceServerClient(address)
    rows = module.InferInput("x", [1, 2], "FP32")
    rows.set_data_from_numpy(np.array([[1, 2]], np.float32), binary_data=False)
    wanted = [module.InferRequestedOutput("y", binary_data=False)]
    forms = {}
    for form in ("gzip", "deflate", None):
        answer = client.infer("affine", [rows], outputs=wanted, request_compression_algorithm=form)
        forms[str(form)] = answer.as_numpy("y").tolist()
    return forms


if __name__ == "__main__":
    http, grpc = sys.argv[1:]
    print(
        json.dumps(
            {
                "http": ask(tritonclient.http, http),
                "grpc": ask(tritonclient.grpc, grpc),
                "forms": ask_http(http),
                "aio": [
                    asyncio.run(ask_aio(tritonclient.http.aio, http)),
                    asyncio.run(ask_aio(tritonclient.grpc.aio, grpc)),
                ],
                "stream": stream(grpc),
            }
        )
    )
