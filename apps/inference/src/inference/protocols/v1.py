"""KServe's V1 protocol: ``{"instances": …}`` in, ``{"predictions": …}`` out.

Source: KServe, "V1 Inference Protocol"; the same as TensorFlow Serving's predict API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.errors import BadRequest
from inference.models.registry import ServedModel, json_bytes
from inference.protocols.json import loads_plain
from inference.protocols.rest_v2 import (
    InferRequest,
    add_input,
    note_non_finite,
    settle_inputs,
    settle_outputs,
)
from inference.server.http import Exchange, respond
from kit.oip.non_finite import plain
from kit.oip.rows import read_rows
from kit.oip.tensors import Array

if TYPE_CHECKING:
    from inference.app import InferenceApp


async def handle(app: InferenceApp, exchange: Exchange, rest: list[str]) -> None:
    """``GET /v1/models``, ``GET /v1/models/{m}``, ``POST /v1/models/{m}:predict``."""
    exchange.call.protocol = "v1"
    match rest:
        case [] | [""]:
            exchange.need("GET")
            names = [name for name, entry in sorted(app.registry.entries.items()) if entry.default]
            await exchange.json({"models": names})
        case [name] if name.endswith(":predict"):
            exchange.need("POST")
            await _predict(app, exchange, name.removesuffix(":predict"))
        case [name]:
            exchange.need("GET")
            served = app.registry.get(name)
            await exchange.json({"name": served.name, "ready": True})
        case _:
            raise exchange.no_such_path()


async def _predict(app: InferenceApp, exchange: Exchange, name: str) -> None:
    served: ServedModel | None = None
    request: InferRequest | None = None
    call = exchange.call
    try:
        app.engine.check_full(app.registry.get(name))
        body = await app.body(exchange.receive, exchange.headers, call)
        served = app.engine.admit(app.registry.get(name), call)
        try:
            app.check_json_size(len(body))
            request = await app.engine.parse(len(body), body, read, body, served)
            call.hang_up = exchange.hung_up
            answer = await app.engine.infer(served, request, call)
            document = {"predictions": predictions(answer.outputs, request, served)}
            out = json_bytes(document)
        finally:
            app.engine.leave(served)
    except Exception as error:
        raise app.engine.failed(served, call, error, request) from None
    headers = app.answer_headers(served, answer, call)
    headers += app.non_finite_headers(request)
    headers.append((b"content-type", b"application/json"))
    await respond(exchange.send, 200, headers, out)
    app.engine.succeeded(served, request, call, answer)


def read(body: bytes, served: ServedModel) -> InferRequest:
    """A ``:predict`` body as a checked request."""
    return read_instances(load_object(body), served)


def load_object(body: bytes) -> dict[str, Any]:
    """A body that must be a JSON object."""
    document = loads_plain(body)
    if type(document) is not dict:
        raise BadRequest("body must be a JSON object")
    return document


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
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        return [columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
