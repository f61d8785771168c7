"""A request's tensors held against what the model takes: the same rules for every service.

Source: Open Inference Protocol v2, "HTTP/REST" and its "Binary Tensor Data" extension.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from kit.oip.datatypes import NUMPY
from kit.oip.errors import BadTensorError
from kit.oip.integers import integer_of, shape_of
from kit.oip.tensors import Array, from_base64, from_binary, from_json, kind_of

BASE64 = "base64"
"""The ``content_type`` of a BYTES input whose elements hold base64 (MLServer's parameter)."""


MOST_BESIDE_NOTHING = 65_536
"""What the sizes beside a 0 in a shape may come to: the empty past of a language model is less."""


class Spec(Protocol):
    """A model's input: its name, its datatype, and its shape, in which -1 is any size."""

    @property
    def name(self) -> str:
        """What requests call it."""
        ...

    @property
    def datatype(self) -> str:
        """One of the protocol's."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """With the batch dimension, if it has one."""
        ...


S = TypeVar("S", bound=Spec)


def input_spec(name: object, inputs: Mapping[str, S], given: Container[str], *, model: str) -> S:
    """The model's input of that name, which no tensor before it (``given``) had."""
    if name is None:
        raise BadTensorError(f"inputs[].name is missing: model {model!r} takes {sorted(inputs)}")
    if type(name) is not str:
        raise BadTensorError(f"inputs[].name must be text, got {kind_of(name)}")
    spec = inputs.get(name)
    if spec is None:
        raise BadTensorError(f"input {name!r} is unknown: model {model!r} takes {sorted(inputs)}")
    if name in given:
        raise BadTensorError(f"input {name!r} is given twice")
    return spec


def check_input(spec: Spec, datatype: Any, shape: Sequence[int], *, takes_images: bool) -> bool:
    """Whether the tensor holds raw images; BadTensorError where it suits the model neither way.

    ``takes_images`` says that the model's one input may come as encoded pictures, BYTES [n].
    """
    if datatype != spec.datatype:
        if datatype == "BYTES" and takes_images:
            if len(shape) not in (1, 2) or tuple(shape[1:]) not in ((), (1,)):
                raise BadTensorError(
                    f"input {spec.name!r}: images have shape [n], got {list(shape)}"
                )
            return True
        if type(datatype) is not str or datatype not in NUMPY:
            known = ", ".join(NUMPY)
            raise BadTensorError(
                f"input {spec.name!r}: datatype {datatype!r} is none of those served: {known}"
            )
        raise BadTensorError(f"input {spec.name!r} is {spec.datatype}, got {datatype}")
    check_shape(spec, shape)
    return False


def check_shape(spec: Spec, shape: Sequence[int]) -> None:
    """BadTensorError unless ``shape`` is one the model takes.

    A spec with a true ``free_rank`` takes every shape. One with a 0 in it holds no elements, so
    its other sizes cost the caller nothing and are bounded.
    """
    expected = spec.shape
    if len(shape) == len(expected):
        for size, wanted in zip(shape, expected, strict=True):
            if size != wanted and wanted >= 0:
                break
        else:
            if 0 in shape:
                _check_empty(spec, shape, expected)
            return
    if getattr(spec, "free_rank", False):
        if 0 in shape:
            _check_empty(spec, shape, [-1] * len(shape))
        return
    raise BadTensorError(
        f"input {spec.name!r} has shape {list(expected)}, got {list(shape)} (-1 is any size)"
    )


def _check_empty(spec: Spec, shape: Sequence[int], expected: Sequence[int]) -> None:
    """BadTensorError where a shape without elements has sizes of the caller's choice too large.

    A model makes outputs of them: the mean over columns of [8000000, 0] is 8000000 numbers.
    """
    chosen = [size for size, wanted in zip(shape, expected, strict=True) if size and wanted < 0]
    if math.prod(chosen) > MOST_BESIDE_NOTHING:
        raise BadTensorError(
            f"input {spec.name!r}: shape {list(shape)} holds no elements, and beside a 0 the other "
            f"sizes may come to {MOST_BESIDE_NOTHING} at most"
        )


def read_input(
    tensor: Any,
    binary: memoryview,
    at: int,
    inputs: Mapping[str, S],
    given: Container[str],
    *,
    model: str,
    takes_images: bool,
    document: bytes | None = None,
) -> tuple[S, Array, bool, int]:
    """One of a request's ``inputs``: its spec, its values, whether they are images, and the end.

    Its binary data, if it has any, begin at ``at`` in ``binary``; the last of the four is where
    the next input's begin. ``given`` are the names that came before, ``document`` is the request's
    JSON if it is at hand. BadTensorError names the field that is wrong.
    """
    if type(tensor) is not dict:
        raise BadTensorError(f"inputs must be objects, got {kind_of(tensor)}")
    spec = input_spec(tensor.get("name"), inputs, given, model=model)
    name = spec.name
    datatype: Any = tensor.get("datatype")
    shape = shape_of(tensor.get("shape"))
    if shape is None:
        raise BadTensorError(
            f"input {name!r}: shape must be a list of integers, 0 or more, got "
            f"{repr(tensor.get('shape'))[:80]}"
        )
    images = check_input(spec, datatype, shape, takes_images=takes_images)
    parameters = tensor.get("parameters") or {}
    if type(parameters) is not dict:
        raise BadTensorError(f"input {name!r}: parameters must be an object")
    said_size = parameters.get("binary_data_size")
    if said_size is None:
        if "data" not in tensor:
            raise BadTensorError(
                f"input {name!r}: data is missing (and there is no binary_data_size either)"
            )
        encoded = images or parameters.get("content_type") == BASE64
        values = from_json(
            name, datatype, shape, tensor["data"], base64_bytes=encoded, document=document
        )
    else:
        size = integer_of(said_size)
        if size is None or size < 0:
            raise BadTensorError(
                f"input {name!r}: binary_data_size is {repr(said_size)[:50]}: it must be an "
                "integer, 0 or more"
            )
        if "data" in tensor:
            raise BadTensorError(f"input {name!r}: both data and binary_data_size are given")
        if at + size > len(binary):
            raise BadTensorError(
                f"input {name!r}: binary_data_size is {size}, but {len(binary) - at} bytes of "
                "binary data are left"
            )
        values = from_binary(name, datatype, shape, binary[at : at + size])
        if parameters.get("content_type") == BASE64 and datatype == "BYTES":
            values = from_base64(name, values)
        at += size
    return spec, values, images, at


def check_all_given(given: Mapping[str, object], inputs: Mapping[str, Spec]) -> None:
    """BadTensorError where one of the model's inputs is missing."""
    if len(given) != len(inputs):
        missing = sorted(set(inputs) - set(given))
        raise BadTensorError(f"input {missing[0]!r} is missing")


def row_count(values: Mapping[str, Array]) -> int:
    """How many rows every input has; BadTensorError where they differ or there are none."""
    rows = -1
    for name, array in values.items():
        if rows < 0:
            rows = array.shape[0]
        elif array.shape[0] != rows:
            raise BadTensorError(f"input {name!r} has {array.shape[0]} rows, others have {rows}")
    if rows == 0:
        raise BadTensorError("inputs have no rows: send at least one")
    return rows
