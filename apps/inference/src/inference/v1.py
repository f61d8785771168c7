"""KServe's V1 protocol: ``{"instances": …}`` in, ``{"predictions": …}`` out.

Source: KServe, "V1 Inference Protocol"; the same as TensorFlow Serving's predict API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from inference.errors import BadRequest
from inference.http import Exchange, respond
from inference.manifest import TensorSpec, suits
from inference.models import ServedModel, json_bytes
from inference.protocol import InferRequest, add_input, check_input, settle_inputs, settle_outputs
from inference.tensors import Array, from_json
from inference.turns import by_size

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
        app.engine.check_full()
        body = await app.body(exchange.receive, exchange.headers, call)
        app.engine.admit()
        try:
            served = app.registry.get(name).lease()
            app.check_json_size(len(body))
            request = await by_size(len(body), read, body, served)
            call.hang_up = exchange.hung_up
            answer = await app.engine.infer(served, request, call)
            document = {"predictions": predictions(answer.outputs, request.rows, served)}
            out = json_bytes(document)
        finally:
            app.engine.leave(served)
    except Exception as error:
        raise app.engine.failed(served, call, error, request) from None
    headers = app.answer_headers(served, answer, call)
    headers.append((b"content-type", b"application/json"))
    await respond(exchange.send, 200, headers, out)
    app.engine.succeeded(served, request, call, answer)


def read(body: bytes, served: ServedModel) -> InferRequest:
    """A ``:predict`` body as a checked request."""
    return read_instances(load_object(body), served)


def load_object(body: bytes) -> dict[str, Any]:
    """A body that must be a JSON object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"body is no JSON: {error}") from None
    if type(document) is not dict:
        raise BadRequest("body must be a JSON object")
    return document


def read_instances(document: dict[str, Any], served: ServedModel) -> InferRequest:
    """``instances`` (rows) or ``inputs`` (columns) as a checked request."""
    if "instances" in document and "inputs" in document:
        raise BadRequest("both instances and inputs are given: send one of them")
    if "instances" in document:
        instances = document["instances"]
        if type(instances) is not list or not instances:
            raise BadRequest("instances must be a list of at least one")
        return _from_columns(_columns(instances, served), served)
    if "inputs" in document:
        inputs = document["inputs"]
        if type(inputs) is not dict:
            inputs = {_only_input(served).name: inputs}
        return _from_columns(inputs, served)
    raise BadRequest("instances is missing")


def _columns(instances: list[Any], served: ServedModel) -> dict[str, Any]:
    if type(instances[0]) is not dict:
        return {_only_input(served).name: instances}
    if set(instances[0]) == {"b64"}:
        name = _only_input(served).name
        if not all(type(row) is dict and set(row) == {"b64"} for row in instances):
            raise BadRequest("instances: either all or none are base64 objects")
        return {name: {"b64": [row["b64"] for row in instances]}}
    names = set(instances[0])
    for position, row in enumerate(instances):
        if type(row) is not dict or set(row) != names:
            raise BadRequest(f"instances[{position}] has other inputs than instances[0]")
    return {name: [row[name] for row in instances] for name in names}


def _only_input(served: ServedModel) -> TensorSpec:
    if len(served.inputs) != 1:
        raise BadRequest(
            f"model {served.name!r} takes inputs {sorted(served.inputs)}: "
            "name them in each instance"
        )
    return served.model.inputs[0]


def _from_columns(columns: dict[str, Any], served: ServedModel) -> InferRequest:
    result = InferRequest()
    for name, data in columns.items():
        spec = served.inputs.get(name)
        if spec is None:
            raise BadRequest(
                f"input {name!r} is unknown: model {served.name!r} takes {sorted(served.inputs)}"
            )
        if type(data) is dict and set(data) == {"b64"}:
            texts = data["b64"]
            if type(texts) is not list:
                raise BadRequest(f"input {name!r}: b64 must be a list of base64 texts")
            shape = [len(texts)]
            values = from_json(name, "BYTES", shape, texts, base64_bytes=True)
            images = check_input(spec, "BYTES", shape, served)
        else:
            images = False
            values = array_of(spec, data)
        add_input(spec, values, images=images, result=result)
    settle_inputs(result, served)
    settle_outputs(result, served)
    return result


def array_of(spec: TensorSpec, data: Any) -> Array:
    """Nested lists as the model's input, their shape read off and checked."""
    shape = _shape_of(data)
    if len(shape) == len(spec.shape) + 1 and shape[-1] == 1:
        shape = shape[:-1]  # a column of one: [[1], [2]] for a model that takes [-1]
        data = [row[0] if type(row) is list and row else row for row in data]
    if not suits(shape, spec.shape):
        raise BadRequest(f"input {spec.name!r} has shape {spec.shape}, got {shape}")
    return from_json(spec.name, spec.datatype, shape, data)


def _shape_of(data: Any) -> list[int]:
    shape = []
    while type(data) is list:
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return shape


def predictions(outputs: dict[str, Array], rows: int, served: ServedModel) -> list[Any]:
    """One element per row: the only output's, or an object of all of them by name."""
    columns = {
        name: values.tolist() if served.batched or values.ndim else [values.item()]
        for name, values in outputs.items()
    }
    if len(columns) == 1:
        return list(next(iter(columns.values())))
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        return [columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
