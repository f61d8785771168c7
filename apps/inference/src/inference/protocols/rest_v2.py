"""Open Inference Protocol v2 over REST: a request's bytes become tensors, tensors a body.

Source: the protocol's "HTTP/REST" chapter and its "Binary Tensor Data" extension.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from inference.engine.call import Call
from inference.engine.request import (
    InferRequest,
    add_input,
    note_non_finite,
    settle_inputs,
    settle_outputs,
)
from inference.errors import BadRequest
from inference.models.served import ServedModel
from inference.protocols.json import loads
from inference.protocols.parameters import ask_output, flag, timeout_of
from inference.protocols.unsupported import check_request, check_tensor
from inference.server.bodies import content_length, hung_up
from inference.server.exchange import respond
from inference.server.infer_paths import Target
from inference.server.state import JSON, ServerState
from kit.oip.datatypes import of_array
from kit.oip.inputs import read_input
from kit.oip.non_finite import count_of, plain
from kit.oip.tensors import Array, kind_of, to_binary, to_json

MAX_ID = 1024
SEARCHED = 4096
"""Bytes of an answer up to which a word in it is found faster than its numbers are looked at."""


async def infer(
    state: ServerState, target: Target, scope: Scope, receive: Receive, send: Send
) -> None:
    """POST …/infer."""
    name, version = target
    call = Call("rest", time.monotonic())
    served: ServedModel | None = None
    request: InferRequest | None = None
    try:
        headers = state.read_headers(scope["headers"], call)
        state.engine.check_full(state.registry.get(name, version))
        body = await state.body(receive, headers, call)
        served = state.engine.admit(state.registry.get(name, version), call)
        try:
            json_length = content_length(
                headers.get(b"inference-header-content-length"),
                "Inference-Header-Content-Length",
            )
            state.check_json_size(len(body) if json_length is None else json_length)
            document = body if json_length is None else body[:json_length]
            request = await state.engine.parse(
                len(body), document, parse, body, json_length, served
            )
            call.hang_up = lambda: hung_up(receive)
            answer = await state.engine.infer(served, request, call)
            out, out_json_length = encode(served, request, answer.outputs)
        finally:
            state.engine.leave(served)
    except Exception as error:
        await state.refuse(send, state.engine.outcomes.failed(served, call, error, request), call)
        return
    finally:
        state.engine.let_go(call)
    answer_headers = state.answer_headers(served, answer, call)
    answer_headers += state.non_finite_headers(request)
    if out_json_length is None:
        answer_headers.append(JSON)
    else:
        answer_headers.append((b"content-type", b"application/octet-stream"))
        answer_headers.append((b"inference-header-content-length", b"%d" % out_json_length))
    await respond(send, 200, answer_headers, out)
    state.engine.outcomes.succeeded(served, request, call, answer)


def parse(body: bytes, json_length: int | None, served: ServedModel) -> InferRequest:
    """A REST body; ``json_length`` is the Inference-Header-Content-Length, if there was one.

    BadRequest or BadTensorError names the field that is wrong.
    """
    if json_length is None:
        document, binary = body, memoryview(b"")
    else:
        if json_length > len(body):
            raise BadRequest(
                f"Inference-Header-Content-Length is {json_length}, the body has {len(body)} bytes"
            )
        document, binary = body[:json_length], memoryview(body)[json_length:]
    request = loads(document)
    if type(request) is not dict:
        raise BadRequest(f"body must be a JSON object, got {kind_of(request)}")
    return build(request, binary, served, document)


def build(
    request: dict[str, Any],
    binary: memoryview,
    served: ServedModel,
    document: bytes | None = None,
) -> InferRequest:
    """A decoded request and the binary data behind it.

    ``document`` is the JSON it was decoded from, if it is at hand. BadRequest or BadTensorError
    names the field that is wrong.
    """
    result = InferRequest()
    identity = request.get("id")
    if identity is not None:
        if type(identity) is not str or len(identity) > MAX_ID:
            raise BadRequest(f"id must be text of at most {MAX_ID} characters")
        result.id = identity
    parameters = request.get("parameters")
    if parameters:
        _read_parameters(parameters, result)
    tensors = request.get("inputs", None if served.inputs else [])
    if type(tensors) is not list or (not tensors and served.inputs):
        raise BadRequest("inputs must be a list of at least one tensor")
    at = 0
    takes_images = served.takes_images
    for tensor in tensors:
        _check_parameters(tensor)
        spec, values, images, at = read_input(
            tensor, binary, at, served.inputs, result.feeds,
            model=served.name, takes_images=takes_images, document=document,
        )  # fmt: skip
        add_input(spec, values, images=images, result=result)
    if at != len(binary):
        raise BadRequest(
            f"{len(binary) - at} bytes of binary data are left over after every input's "
            "binary_data_size"
        )
    settle_inputs(result, served)
    outputs = request.get("outputs")
    if outputs is not None:
        _read_outputs(outputs, result)
    settle_outputs(result, served)
    return result


def _read_parameters(parameters: Any, result: InferRequest) -> None:
    if type(parameters) is not dict:
        raise BadRequest("parameters must be an object")
    timeout = parameters.get("timeout")
    if timeout is not None:
        result.timeout = timeout_of(timeout)
    result.binary = flag(parameters, "binary_data_output")
    check_request(parameters)


def _check_parameters(tensor: Any) -> None:
    """Refuse an input's parameters that are not supported, before its data are looked for."""
    if type(tensor) is dict and type(tensor.get("parameters")) is dict:
        check_tensor("input", str(tensor.get("name")), tensor["parameters"])


def _read_outputs(outputs: Any, result: InferRequest) -> None:
    if type(outputs) is not list:
        raise BadRequest("outputs must be a list")
    wanted: list[tuple[str, bool]] = []
    for output in outputs:
        if type(output) is not dict or type(output.get("name")) is not str:
            raise BadRequest("outputs must be objects with a name")
        parameters = output.get("parameters") or {}
        if type(parameters) is not dict:
            raise BadRequest(f"output {output['name']!r}: parameters must be an object")
        ask_output(output["name"], parameters, result)
        binary = flag(parameters, "binary_data", default=result.binary)
        wanted.append((output["name"], binary))
    if wanted:
        result.wanted = wanted


def encode(
    served: ServedModel, request: InferRequest, outputs: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where binary data follow.

    ``outputs`` are in the order in which they are to appear. InputsFailed or ModelFailed where
    JSON cannot say one of their values and the server is set to refuse such answers.
    """
    tensors: list[dict[str, Any]] = []
    binary: list[bytes] = []
    wanted = request.wanted
    for position, (name, values) in enumerate(outputs.items()):
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": of_array(values.dtype),
            "shape": values.shape,
        }
        as_binary = request.binary if wanted is None else wanted[position][1]
        if as_binary:
            data = to_binary(values)
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            tensor["data"] = to_json(values)
        tensors.append(tensor)
    document: dict[str, Any] = {"model_name": served.name, "model_version": served.version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = tensors
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    # orjson writes null for them: where a short body has none, nothing need be counted
    if (len(body) > SEARCHED or b"null" in body) and note_non_finite(
        served,
        request,
        [v for t, v in zip(tensors, outputs.values(), strict=True) if "data" in t],
    ):
        for tensor, values in zip(tensors, outputs.values(), strict=True):
            if "data" in tensor and count_of(values):
                tensor["data"] = plain(values.reshape(-1), served.non_finite)
        body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([body, *binary]), len(body)) if binary else (body, None)
