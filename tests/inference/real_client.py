"""What Triton's own clients see of the server: run with them installed, prints JSON.

It is a program of its own because the client brings its own copy of the protocol's messages,
which one process cannot hold twice.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http


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
    return seen


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
            }
        )
    )
