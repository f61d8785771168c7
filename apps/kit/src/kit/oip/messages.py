"""Infer requests and answers as a client of a model server writes and reads them.

Source: Open Inference Protocol v2, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson

from kit.oip.datatypes import NUMPY
from kit.oip.errors import BadAnswerError, BadTensorError
from kit.oip.integers import integer_of, shape_of
from kit.oip.tensors import Array, from_binary, from_json, to_binary

Packed = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Tensors by name: datatype, shape, and the protocol's bytes."""


def pack(name: str, values: Array, datatype: str) -> Packed:
    """One tensor as :func:`encode_request` takes it; its values must suit the datatype."""
    if datatype != "BYTES":
        values = values.astype(NUMPY[datatype], copy=False)
    return {name: (datatype, values.shape, to_binary(values))}


def encode_request(inputs: Packed, *, identity: str) -> tuple[bytes, int]:
    """An infer request with binary tensors, and the length of its JSON part.

    All outputs are asked for as binary.
    """
    header = orjson.dumps(
        {
            "id": identity,
            "inputs": [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": list(shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
                for name, (datatype, shape, raw) in inputs.items()
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    return b"".join([header, *(raw for _, _, raw in inputs.values())]), len(header)


def decode_answer(body: bytes, json_length: int | None) -> tuple[dict[str, Any], dict[str, Array]]:
    """An infer answer: its JSON fields and its outputs by name.

    BYTES outputs are arrays of str, or of bytes for what is no UTF-8. BadAnswerError says what
    is not the protocol's.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise BadAnswerError(f"its JSON has {json_length} bytes, the answer {len(body)}")
    try:
        document = orjson.loads(body if json_length is None else body[:json_length])
        binary = memoryview(b"" if json_length is None else body)[json_length or 0 :]
        outputs: dict[str, Array] = {}
        at = 0
        for item in document["outputs"]:
            name, datatype, shape = item["name"], item["datatype"], shape_of(item["shape"])
            if datatype not in NUMPY:
                raise BadAnswerError(f"output {name!r} has the unknown datatype {datatype!r}")
            if shape is None:
                raise BadAnswerError(f"output {name!r} has the shape {item['shape']!r}")
            said_size = (item.get("parameters") or {}).get("binary_data_size")
            size = integer_of(said_size)
            if said_size is None:
                values = _from_json(name, datatype, shape, item["data"])
            elif size is None or not 0 <= size <= len(binary) - at:
                raise BadAnswerError(f"output {name!r} is cut short")
            else:
                values = from_binary(name, datatype, shape, binary[at : at + size])
                at += size
            outputs[name] = _texts(values) if datatype == "BYTES" else values
        if at != len(binary):
            raise BadAnswerError(f"{len(binary) - at} bytes are left over after its outputs")
    except BadTensorError as error:
        said = str(error).removeprefix("input ")
        raise BadAnswerError(f"the answer is not the protocol's: output {said}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadAnswerError):
            raise
        raise BadAnswerError(f"the answer is not the protocol's: {error!r}") from error
    return document, outputs


def _from_json(name: str, datatype: str, shape: list[int], data: Any) -> Array:
    """``data`` as an array; null among floats is what servers make of NaN and infinities."""
    if datatype.startswith("FP") and isinstance(data, list) and None in data:
        array = np.array([math.nan if value is None else value for value in data])
        if array.dtype.kind in "if" and array.size == math.prod(shape):
            return array.astype(NUMPY[datatype]).reshape(shape)
    return from_json(name, datatype, shape, data)


def _texts(values: Array) -> Array:
    texts = np.empty(values.size, dtype=object)
    for position, value in enumerate(values.ravel()):
        try:
            texts[position] = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            texts[position] = value
    return texts.reshape(values.shape)
