"""SageMaker's container contract: ``POST /invocations`` in several content types.

Source: Amazon SageMaker, "Use your own inference code with hosting services"; the binary form
is the one Triton uses there.
"""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

import numpy as np

from inference.engine.request import (
    InferRequest,
    add_input,
    note_non_finite,
    settle_inputs,
    settle_outputs,
)
from inference.errors import BadRequest, NotAcceptable, UnsupportedMediaType
from inference.models.served import ServedModel
from inference.protocols.json import loads_plain
from inference.protocols.rest_v2 import build, encode, parse
from inference.protocols.v1 import outputs_in_rows, predictions, read_instances
from inference.server.bodies import Headers
from inference.server.exchange import Exchange, accepts, json_bytes, respond
from inference.server.state import ServerState
from kit.oip.csv_rows import read_csv
from kit.oip.datatypes import NUMPY
from kit.oip.inputs import check_shape
from kit.oip.non_finite import replaced
from kit.oip.rows import is_protocol
from kit.oip.tensors import Array, from_binary, to_binary
from kit.pictures.decode import is_picture

BINARY_JSON = "application/vnd.sagemaker-triton.binary+json"
_HEADER_SIZE = re.compile(r"json-header-size\s*=\s*(\d{1,12})")


async def handle(state: ServerState, exchange: Exchange) -> None:
    """Ask the default model, or the one that X-Amzn-SageMaker-Target-Model names."""
    call, headers = exchange.call, exchange.headers
    call.protocol = "sagemaker"
    served: ServedModel | None = None
    request: InferRequest | None = None
    try:
        target = headers.get(b"x-amzn-sagemaker-target-model")

        def find() -> ServedModel:
            return state.registry.get(target.decode("latin-1")) if target else state.registry.only()

        state.engine.check_full(find())
        body = await state.body(exchange.receive, headers, call)
        served = state.engine.admit(find(), call)
        try:
            content_type = headers.get(b"content-type", b"application/json").decode("latin-1")
            media = content_type.split(";", 1)[0].strip().lower()
            size, what = parsed_size(body, media, content_type)
            state.check_json_size(size, what)
            read_as = await state.engine.parse(
                len(body), body[:size], read, body, media, content_type, served, csv=what == "CSV"
            )
            request, style = read_as
            accept = headers.get(b"accept", b"").decode("latin-1")
            if style == "v2-binary":
                accept = ""
            out_media = accepts(accept, _offers(style))
            if out_media is None:
                raise NotAcceptable(f"Accept {accept!r} allows none of {', '.join(_offers(style))}")
            call.hang_up = exchange.hung_up
            answer = await state.engine.infer(served, request, call)
            out_type, out = write(served, request, answer.outputs, style, out_media)
        finally:
            state.engine.leave(served)
    except Exception as error:
        raise state.engine.outcomes.failed(served, call, error, request) from None
    out_headers: Headers = [
        *state.answer_headers(served, answer, call),
        *state.non_finite_headers(request),
        (b"content-type", out_type.encode()),
    ]
    await respond(exchange.send, 200, out_headers, out)
    state.engine.outcomes.succeeded(served, request, call, answer)


def parsed_size(body: bytes, media: str, content_type: str) -> tuple[int, str]:
    """How many bytes of the body are parsed value by value, and as what."""
    if media == BINARY_JSON:
        match = _HEADER_SIZE.search(content_type)
        return (int(match[1]) if match else 0), "JSON"
    if media == "text/csv":
        return len(body), "CSV"
    return (len(body) if "json" in media else 0), "JSON"


def read(
    body: bytes, media: str, content_type: str, served: ServedModel
) -> tuple[InferRequest, str]:
    """The request, and the style in which it is to be answered."""
    if media == "application/json" or not media:
        return _read_json(body, served)
    if media == BINARY_JSON:
        match = _HEADER_SIZE.search(content_type)
        if match is None:
            raise BadRequest(f"Content-Type {content_type!r} lacks json-header-size=…")
        return parse(body, int(match[1]), served), "v2-binary"
    if media == "text/csv":
        return _read_csv(body, content_type, served), "csv"
    if media == "application/octet-stream":
        return _read_octets(body, served), "octets"
    if media.startswith("image/"):
        if served.prepare is None:
            raise UnsupportedMediaType(
                f"model {served.name!r} takes no images: its model.json has no preprocess"
            )
        return _of_images([body], served), "v1"
    raise UnsupportedMediaType(
        f"Content-Type {media!r} is not known: send application/json, text/csv, "
        f"application/octet-stream, image/* or {BINARY_JSON}"
    )


def _read_json(body: bytes, served: ServedModel) -> tuple[InferRequest, str]:
    document = loads_plain(body)
    if type(document) is dict:
        if is_protocol(document):
            return build(document, memoryview(b""), served), "v2"
        return read_instances(document, served), "v1"
    if type(document) is list:
        return read_instances(document, served), "v1"
    raise BadRequest("body must be a JSON object or list")


def _read_csv(body: bytes, content_type: str, served: ServedModel) -> InferRequest:
    result = InferRequest()
    for spec, values in read_csv(
        body, content_type, served.inputs, model=served.name, columns=served.manifest.columns
    ):
        add_input(spec, values, images=False, result=result)
    settle_inputs(result, served)
    settle_outputs(result, served)
    return result


def _read_octets(body: bytes, served: ServedModel) -> InferRequest:
    """Little-endian rows of a model's one input, as many as there are."""
    spec = _only(served, "application/octet-stream")
    if served.prepare is not None and is_picture(body):
        return _of_images([body], served)
    if spec.datatype == "BYTES" or any(size <= 0 for size in spec.shape[1:]):
        raise BadRequest(
            f"input {spec.name!r} is {spec.datatype} {spec.shape}: its rows have no fixed size in "
            "bytes, send JSON"
        )
    size = NUMPY[spec.datatype].itemsize * math.prod(spec.shape[1:])
    rows = len(body) // size
    if rows == 0 or len(body) % size:
        raise BadRequest(f"body has {len(body)} bytes, a row of {spec.name!r} takes {size}")
    shape = [rows, *spec.shape[1:]] if spec.shape else []
    check_shape(spec, shape)
    return _request(spec.name, from_binary(spec.name, spec.datatype, shape, body), served)


def _of_images(images: list[bytes], served: ServedModel) -> InferRequest:
    result = InferRequest()
    name = served.model.inputs[0].name
    result.images = images
    result.feeds[name] = np.array(images, dtype=object)
    settle_inputs(result, served)
    settle_outputs(result, served)
    return result


def _request(name: str, values: Array, served: ServedModel) -> InferRequest:
    result = InferRequest()
    result.feeds[name] = values
    settle_inputs(result, served)
    settle_outputs(result, served)
    return result


def _only(served: ServedModel, what: str) -> Any:
    if len(served.inputs) != 1:
        raise BadRequest(
            f"model {served.name!r} takes inputs {sorted(served.inputs)}: {what} can hold but one"
        )
    return served.model.inputs[0]


def _offers(style: str) -> tuple[str, ...]:
    first = {"csv": "text/csv", "octets": "application/octet-stream"}.get(style)
    every = ("application/json", "text/csv", "application/octet-stream")
    return tuple(dict.fromkeys((first, *every))) if first else every


def write(
    served: ServedModel,
    request: InferRequest,
    outputs: dict[str, Array],
    style: str,
    media: str,
) -> tuple[str, bytes]:
    """Content type and body of the answer."""
    if style == "v2-binary":
        body, length = encode(served, request, outputs)
        if length is None:
            return "application/json", body
        return f"{BINARY_JSON};json-header-size={length}", body
    if media == "text/csv":
        return "text/csv; charset=utf-8", _csv(outputs, request, served)
    if media == "application/octet-stream":
        return media, b"".join(to_binary(values) for values in outputs.values())
    if style == "v2":
        return "application/json", encode(served, request, outputs)[0]
    return "application/json", json_bytes({"predictions": predictions(outputs, request, served)})


def _csv(outputs: dict[str, Array], request: InferRequest, served: ServedModel) -> bytes:
    """A line per row: every output's values side by side."""
    table = io.StringIO()
    first = next(iter(outputs.values()))
    counted = len(outputs) == 1 or outputs_in_rows(outputs, served)
    rows = (len(first) if counted and first.ndim else 1) or 1
    note_non_finite(served, request, outputs.values())
    replace = {name: replaced(values, served.non_finite) for name, values in outputs.items()}
    writer = csv.writer(table, lineterminator="\n")
    columns = [
        values.reshape(rows, -1).tolist() if values.size % max(rows, 1) == 0 else [values.tolist()]
        for values in replace.values()
    ]
    for row in zip(*columns, strict=True):
        writer.writerow([value for cell in row for value in cell])
    return table.getvalue().encode()
