"""KServe's V1 protocol: ``{"instances": …}`` in, ``{"predictions": …}`` out.

Source: KServe, "V1 Inference Protocol"; the same as TensorFlow Serving's predict API.
"""

from __future__ import annotations

from typing import Any

from inference.engine.request import (
    InferRequest,
    add_input,
    note_non_finite,
    settle_inputs,
    settle_outputs,
)
from inference.errors import BadRequest
from inference.models.served import ServedModel
from inference.protocols.json import loads_plain
from inference.server.exchange import Exchange, json_bytes, respond
from inference.server.state import ServerState
from kit.oip.non_finite import plain
from kit.oip.row_outputs import in_rows
from kit.oip.rows import read_rows
from kit.oip.tensors import Array


async def handle(state: ServerState, exchange: Exchange, rest: list[str]) -> None:
    """``GET /v1/models``, ``GET /v1/models/{m}``, ``POST /v1/models/{m}:predict``."""
    exchange.call.protocol = "v1"
    match rest:
        case [] | [""]:
            exchange.need("GET")
            names = [
                name for name, entry in sorted(state.registry.entries.items()) if entry.default
            ]
            await exchange.json({"models": names})
        case [name] if name.endswith(":predict"):
            exchange.need("POST")
            await _predict(state, exchange, name.removesuffix(":predict"))
        case [name]:
            exchange.need("GET")
            served = state.registry.get(name)
            await exchange.json({"name": served.name, "ready": True})
        case _:
            raise exchange.no_such_path()


async def _predict(state: ServerState, exchange: Exchange, name: str) -> None:
    served: ServedModel | None = None
    request: InferRequest | None = None
    call = exchange.call
    try:
        state.engine.check_full(state.registry.get(name))
        body = await state.body(exchange.receive, exchange.headers, call)
        served = state.engine.admit(state.registry.get(name), call)
        try:
            state.check_json_size(len(body))
            request = await state.engine.parse(len(body), body, read, body, served)
            call.hang_up = exchange.hung_up
            answer = await state.engine.infer(served, request, call)
            document = {"predictions": predictions(answer.outputs, request, served)}
            out = json_bytes(document)
        finally:
            state.engine.leave(served)
    except Exception as error:
        raise state.engine.outcomes.failed(served, call, error, request) from None
    headers = state.answer_headers(served, answer, call)
    headers += state.non_finite_headers(request)
    headers.append((b"content-type", b"application/json"))
    await respond(exchange.send, 200, headers, out)
    state.engine.outcomes.succeeded(served, request, call, answer)


def read(body: bytes, served: ServedModel) -> InferRequest:
    """A ``:predict`` body as a checked request."""
    return read_instances(load_object(body), served)


def load_object(body: bytes) -> dict[str, Any]:
    """A body that must be a JSON object."""
    document = loads_plain(body)
    if type(document) is not dict:
        raise BadRequest("body must be a JSON object")
    return document


async def json_body(state: ServerState, exchange: Exchange) -> dict[str, Any]:
    """An optional JSON object."""
    body = await state.body(exchange.receive, exchange.headers, exchange.call)
    if not body:
        return {}
    state.check_json_size(len(body))
    return await state.engine.parse(len(body), body, load_object, body)


def read_instances(document: Any, served: ServedModel) -> InferRequest:
    """``instances`` (rows) or ``inputs`` (columns) as a checked request."""
    result = InferRequest()
    for spec, values, images in read_rows(
        document, served.inputs, model=served.name, takes_images=served.takes_images
    ):
        add_input(spec, values, images=images, result=result)
    settle_inputs(result, served)
    settle_outputs(result, served)
    return result


def outputs_in_rows(outputs: dict[str, Array], served: ServedModel) -> bool:
    """Whether several outputs can be given side by side, row by row; a scalar is one row."""
    values = {name: values.reshape(values.shape or (1,)) for name, values in outputs.items()}
    return in_rows(values, served.model.outputs, served.model.inputs)


def predictions(outputs: dict[str, Array], request: InferRequest, served: ServedModel) -> list[Any]:
    """One element per row: the only output's, or an object of all of them by name."""
    note_non_finite(served, request, outputs.values())
    columns = {
        name: plain(
            values if served.batched or values.ndim else values.reshape(1), served.non_finite
        )
        for name, values in outputs.items()
    }
    if len(columns) == 1:
        return list(next(iter(columns.values())))
    if not outputs_in_rows(outputs, served):
        return [columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
