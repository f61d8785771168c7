"""What KServe's own clients see of the server: run with its SDK installed, prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

ROWS = np.array([[1, 2], [3, 4]], np.float32)


def request(model: str, values: np.ndarray, datatype: str, *, binary: bool) -> InferRequest:
    """A request for one input, x."""
    tensor = InferInput("x", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    outputs = [RequestedOutput("y", parameters={"binary_data": True})] if binary else None
    return InferRequest(model, [tensor], request_outputs=outputs)


async def tensors(infer: Any) -> dict[str, Any]:
    """Numbers in both forms, text, and a model that is not there."""
    text = np.array([["Grüße".encode(), b"b"]], dtype=object)
    seen: dict[str, Any] = {}
    for form, binary in (("json", False), ("binary", True)):
        answer = await infer("affine", request("affine", ROWS, "FP32", binary=binary))
        seen[form] = answer.outputs[0].as_numpy().tolist()
    answer = await infer("bytes", request("bytes", text, "BYTES", binary=True))
    found = answer.outputs[0].as_numpy().tolist()
    seen["text"] = [[v.decode() if isinstance(v, bytes) else v for v in row] for row in found]
    try:
        await infer("absent", request("absent", ROWS, "FP32", binary=False))
        seen["absent"] = "no refusal"
    except Exception as error:  # httpx's over REST, grpc's over gRPC
        seen["absent"] = str(error)
    return seen


async def ask_rest(url: str, protocol: str) -> dict[str, Any]:
    """KServe's REST client in one of its protocols."""
    client = InferenceRESTClient(RESTConfig(protocol=protocol))
    ready = [await client.is_server_live(url), await client.is_model_ready(url, "affine")]
    if protocol == "v1":
        answer = await client.infer(url, {"instances": ROWS.tolist()}, model_name="affine")
        return {"ready": ready, "predictions": answer["predictions"]}
    ready.append(await client.is_server_ready(url))

    async def infer(model: str, asked: InferRequest) -> Any:
        return await client.infer(url, asked, model_name=model)

    return {"ready": ready} | await tensors(infer)


async def ask_grpc(address: str) -> dict[str, Any]:
    """KServe's gRPC client."""
    async with InferenceGRPCClient(address) as client:
        ready = [
            await client.is_server_live(),
            await client.is_server_ready(),
            await client.is_model_ready("affine"),
        ]

        async def infer(_model: str, asked: InferRequest) -> Any:
            return await client.infer(asked)

        return {"ready": ready} | await tensors(infer)


async def main(url: str, address: str) -> None:
    """Ask over all three."""
    seen = {
        "v1": await ask_rest(url, "v1"),
        "v2": await ask_rest(url, "v2"),
        "grpc": await ask_grpc(address),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
