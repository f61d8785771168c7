"""Messages of the gRPC protocol: bytes become a checked request, outputs a response."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from inference.engine.request import InferRequest, add_input, settle_inputs, settle_outputs
from inference.errors import BadRequest, TooLarge
from inference.models.served import ServedModel
from inference.protocols import unsupported
from inference.protocols.oip import grpc_predict_v2_pb2 as pb
from inference.protocols.parameters import ask_output, timeout_of
from kit.oip.datatypes import NUMPY, of_array
from kit.oip.errors import BadTensorError
from kit.oip.inputs import BASE64, check_input, input_spec
from kit.oip.tensors import (
    MOST_TEXTS,
    Array,
    from_base64,
    from_binary,
    shaped,
    to_binary,
    too_many_texts,
)

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_MODEL_NAME_TAG = bytes([pb.ModelInferRequest.MODEL_NAME_FIELD_NUMBER << 3 | 2])
_RAW_TAG = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2
MOST_FIELDS = 10_000
"""Fields of a message. Shorter messages than this need not be looked at."""
MOST_DIMENSIONS = 64
_SLICE = 65_536
"""Values converted at a time: other threads run in between."""


def decode(message: bytes, limit: int) -> Any:
    """A ModelInferRequest; TooLarge where more than ``limit`` bytes of it are not raw contents.

    Typed contents are decoded value by value, and nothing else in the process runs meanwhile. The
    same holds for very many fields, each of which becomes an object.
    """
    if len(message) > min(limit, MOST_FIELDS):
        beside, fields = _beside_raw(message, limit)
        if fields > MOST_FIELDS:
            raise TooLarge(f"more than {MOST_FIELDS} fields, which are inputs, outputs, their raw "
                           "contents and parameters: send fewer")  # fmt: skip
        if beside > limit:
            raise TooLarge(
                f"more than {limit} bytes beside raw_input_contents: that is the limit "
                "(max_json_bytes); send the tensors as raw_input_contents"
            )
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        raise BadRequest("the message is no ModelInferRequest") from None


def model_named_first(message: bytes) -> str | None:
    """The model's name, where the message begins with it, as clients write it; else None.

    It is read without decoding the rest, so that a refusal costs less than an answer.
    """
    if not message.startswith(_MODEL_NAME_TAG):
        return None
    length, at = _varint(message, 1)
    return message[at : at + length].decode("utf-8", "replace")


def _beside_raw(message: bytes, limit: int) -> tuple[int, int]:
    """Bytes of a message that are not raw_input_contents, and its fields, until there are too many.

    Source: Protocol Buffers, "Encoding". What is no message is for the decoder to say.
    """
    beside = fields = at = 0
    while at < len(message) and beside <= limit and fields <= MOST_FIELDS:
        start = at
        fields += 1
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(message, at)
                beside -= length if tag == _RAW_TAG else 0
                at += length
            case 5:
                at += 4
        beside += at - start
    return beside, fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends."""
    number = shift = 0
    for byte in message[at : at + 10]:
        number |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            break
    return number, at


def parse(request: Any, served: ServedModel) -> InferRequest:
    """A ModelInferRequest as a checked request; BadRequest names the field that is wrong."""
    result = InferRequest()
    result.id = request.id or None
    result.binary = bool(request.raw_input_contents)
    if request.parameters:
        parameters = plain(request.parameters)
        if "timeout" in parameters:
            result.timeout = timeout_of(parameters["timeout"])
        unsupported.check_request(parameters)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequest(
            f"raw_input_contents has {len(raw)} elements for {len(request.inputs)} inputs"
        )
    if not request.inputs and served.inputs:
        raise BadRequest("inputs must be a list of at least one tensor")
    for position, tensor in enumerate(request.inputs):
        if tensor.parameters:
            unsupported.check_tensor("input", tensor.name, tensor.parameters)
        spec = input_spec(tensor.name, served.inputs, result.feeds, model=served.name)
        if len(tensor.shape) > MOST_DIMENSIONS:
            raise BadRequest(
                f"input {tensor.name!r}: its shape has {len(tensor.shape)} dimensions, at most "
                f"{MOST_DIMENSIONS} are read"
            )
        shape = list(tensor.shape)
        if any(size < 0 for size in shape):
            raise BadRequest(f"input {tensor.name!r}: shape must not be negative, got {shape}")
        images = check_input(spec, tensor.datatype, shape, takes_images=served.takes_images)
        if raw:
            if tensor.HasField("contents"):
                raise BadRequest(
                    f"input {tensor.name!r}: both contents and raw_input_contents are given"
                )
            values = from_binary(tensor.name, tensor.datatype, shape, raw[position])
        else:
            values = _from_contents(tensor, shape)
        if tensor.datatype == "BYTES" and plain(tensor.parameters).get("content_type") == BASE64:
            values = from_base64(tensor.name, values)
        add_input(spec, values, images=images, result=result)
    settle_inputs(result, served)
    for output in request.outputs:
        if output.parameters:
            ask_output(output.name, plain(output.parameters), result)
    if request.outputs:
        result.wanted = [(output.name, result.binary) for output in request.outputs]
    settle_outputs(result, served)
    return result


def plain(parameters: Any) -> dict[str, Any]:
    """A map of parameters as plain values; one without a value is None."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, kind) if kind else None
    return values


def _from_contents(tensor: Any, shape: list[int]) -> Array:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequest(f"input {tensor.name!r}: {tensor.datatype} goes into raw_input_contents")
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != field:
            raise BadRequest(
                f"input {tensor.name!r}: contents.{descriptor.name} is filled, {tensor.datatype} "
                f"goes into contents.{field} alone"
            )
    values = getattr(tensor.contents, field)
    if len(values) != math.prod(shape):
        raise BadRequest(
            f"input {tensor.name!r}: shape {shape} holds {math.prod(shape)} elements, "
            f"contents.{field} has {len(values)}"
        )
    if tensor.datatype == "BYTES":
        if len(values) > MOST_TEXTS:
            raise BadTensorError(too_many_texts(tensor.name, len(values)))
        texts = np.empty(len(values), dtype=object)
        for at in range(0, len(values), _SLICE):
            texts[at : at + _SLICE] = values[at : at + _SLICE]
        return shaped(tensor.name, shape, texts)
    dtype = NUMPY[tensor.datatype]
    try:
        parts = [
            np.array(values[at : at + _SLICE], dtype=dtype)
            for at in range(0, len(values) or 1, _SLICE)
        ]
        return shaped(tensor.name, shape, np.concatenate(parts) if len(parts) > 1 else parts[0])
    except OverflowError as error:
        raise BadRequest(
            f"input {tensor.name!r}: contents are not all {tensor.datatype}: {error}"
        ) from None


def encode(served: ServedModel, request: InferRequest, outputs: dict[str, Array]) -> Message:
    """The response: raw where the request was raw or the datatype has no other form."""
    response = pb.ModelInferResponse(
        model_name=served.name, model_version=served.version, id=request.id or ""
    )
    raw = request.binary or any(
        of_array(values.dtype) not in _CONTENTS for values in outputs.values()
    )
    for name, values in outputs.items():
        datatype = of_array(values.dtype)
        tensor = response.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if raw:
            response.raw_output_contents.append(to_binary(values))
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.extend(str(value).encode() for value in values.ravel())
        else:
            field, flat = getattr(tensor.contents, _CONTENTS[datatype]), values.ravel()
            for at in range(0, flat.size, _SLICE):
                field.extend(flat[at : at + _SLICE].tolist())
    return response


def written(served: ServedModel, request: InferRequest, outputs: dict[str, Array]) -> bytes:
    """:func:`encode` as bytes."""
    encoded: bytes = encode(served, request, outputs).SerializeToString()
    return encoded
