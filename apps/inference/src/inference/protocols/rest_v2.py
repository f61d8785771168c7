"""Open Inference Protocol v2 over REST: a request's bytes become tensors, tensors a body.

Source: the protocol's "HTTP/REST" chapter and its "Binary Tensor Data" extension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from inference.engine.classification import class_count
from inference.errors import BadRequest, InputsFailed, ModelFailed
from inference.models.registry import ServedModel
from inference.protocols.json import loads
from inference.protocols.unsupported import check_request, check_tensor
from inference.repository.manifest import TensorSpec
from kit.oip.datatypes import of_array
from kit.oip.inputs import check_all_given, read_input, row_count
from kit.oip.non_finite import count_of, message, plain
from kit.oip.tensors import Array, as_text, kind_of, to_binary, to_json

MAX_ID = 1024
MAX_DIGITS = 18
SEARCHED = 4096
"""Bytes of an answer up to which a word in it is found faster than its numbers are looked at."""


class InferRequest:
    """A checked request. ``feeds`` are complete unless ``images`` are still to be prepared.

    ``wanted`` are the names asked for, with whether each is to be binary, or None for all;
    ``classes`` are how many of its largest values are wanted of an output, by its name;
    ``timeout`` is in seconds; ``non_finite`` counts the values of the answer that JSON cannot
    say, once it is written.
    """

    __slots__ = ("binary", "classes", "feeds", "id", "images", "key", "non_finite", "rows",
                 "run_outputs", "timeout", "wanted")  # fmt: skip

    def __init__(self) -> None:
        self.id: str | None = None
        self.feeds: dict[str, Array] = {}
        self.images: list[bytes] | None = None
        self.rows = 1
        self.non_finite = 0
        self.key: object = None
        self.wanted: list[tuple[str, bool]] | None = None
        self.run_outputs: tuple[str, ...] = ()
        self.binary = False
        self.classes: dict[str, int] | None = None
        self.timeout: float | None = None


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
    result.binary = _flag(parameters, "binary_data_output")
    check_request(parameters)


def timeout_of(microseconds: object) -> float:
    """The ``timeout`` parameter in seconds; 0 means none, as in Triton."""
    if type(microseconds) is str and len(microseconds) <= MAX_DIGITS and microseconds.isdecimal():
        microseconds = int(microseconds)
    if type(microseconds) is not int or microseconds < 0:
        raise BadRequest(
            f"parameters.timeout is {repr(microseconds)[:50]}: it must be a whole number of "
            f"microseconds, of at most {MAX_DIGITS} digits"
        )
    return microseconds / 1e6 or math.inf


def _check_parameters(tensor: Any) -> None:
    """Refuse an input's parameters that are not supported, before its data are looked for."""
    if type(tensor) is dict and type(tensor.get("parameters")) is dict:
        check_tensor("input", str(tensor.get("name")), tensor["parameters"])


def add_input(spec: TensorSpec, values: Array, *, images: bool, result: InferRequest) -> None:
    """Put a checked tensor into the request."""
    if images:
        result.images = [
            value if isinstance(value, bytes) else value.encode() for value in values.ravel()
        ]
        result.feeds[spec.name] = values
    elif spec.datatype == "BYTES":
        result.feeds[spec.name] = as_text(spec.name, values)
    else:
        result.feeds[spec.name] = values


def settle_inputs(result: InferRequest, served: ServedModel) -> None:
    """Every input is there, with as many rows as the others."""
    feeds = result.feeds
    check_all_given(feeds, served.inputs)
    if not served.batched:
        if result.images is not None and len(result.images) != 1:
            raise BadRequest(f"model {served.name!r} takes one image at a time")
        return
    if result.images is not None:
        result.rows = len(result.images)
        if result.rows == 0:
            raise BadRequest("inputs have no rows: send at least one")
    else:
        result.rows = row_count(feeds)
        if served.variable_shapes:
            result.key = tuple(feeds[name].shape[1:] for name in served.inputs)


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
        binary = _flag(parameters, "binary_data", default=result.binary)
        wanted.append((output["name"], binary))
    if wanted:
        result.wanted = wanted


def ask_output(name: str, parameters: Mapping[str, Any], result: InferRequest) -> None:
    """Take the parameters of a requested output that both protocols have."""
    check_tensor("output", name, parameters)
    if "classification" in parameters:
        count = class_count(parameters["classification"], name)
        if count:
            result.classes = result.classes or {}
            result.classes[name] = count


def settle_outputs(result: InferRequest, served: ServedModel) -> None:
    """Which of the model's outputs must be run for the ones that are wanted."""
    if result.wanted is None:
        result.run_outputs = served.output_names
        return
    seen: set[str] = set()
    for name, _ in result.wanted:
        if name in seen:
            raise BadRequest(f"output {name!r} is asked for twice")
        if name not in served.outputs_known:
            raise BadRequest(
                f"output {name!r} is unknown: model {served.name!r} gives "
                f"{sorted(served.outputs_known)}"
            )
        seen.add(name)
    if seen <= set(served.output_names):
        result.run_outputs = tuple(name for name in served.output_names if name in seen)
    else:  # what post-processing adds may need any of them
        result.run_outputs = served.output_names


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


def note_non_finite(served: ServedModel, request: InferRequest, outputs: Iterable[Array]) -> bool:
    """Count what JSON cannot say; an error where the server is set to refuse such answers.

    InputsFailed where the model gives numbers for other inputs, else ModelFailed.
    """
    request.non_finite = sum(map(count_of, outputs))
    if request.non_finite and served.non_finite == "error":
        kind = InputsFailed if served.model.known_input.finite else ModelFailed
        raise kind(message(request.non_finite))
    return request.non_finite > 0


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise BadRequest(f"parameters.{name} is {value!r}: it must be true or false")
    return value
