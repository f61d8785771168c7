"""Inputs as people send them, as tensors, and as the Open Inference Protocol carries them."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from proxy.contract import Contract, Tensor

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


class BadInputError(ValueError):
    """An input that does not suit the model; the message names the part and the fix."""


class BadAnswerError(ValueError):
    """An answer of a model server that is not what the protocol says."""


def from_json(payload: bytes, contract: Contract) -> dict[str, Array]:
    """Tensors by name from a JSON body.

    Taken: a list of rows; ``{"instances": [rows]}``; ``{"inputs": [{name, shape, datatype,
    data}]}`` as in the protocol; ``{"inputs": {name: rows}}``. A single row may stand alone.
    """
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise BadInputError(f"the body is not JSON: {error}") from None
    if isinstance(document, dict):
        if "instances" in document:
            return {contract.inputs[0].name: rows(document["instances"], _only(contract))}
        inputs = document.get("inputs")
        if isinstance(inputs, dict):
            return _named(inputs, contract)
        if isinstance(inputs, list):
            return _protocol(inputs, contract)
        raise BadInputError(
            "the JSON object needs `instances` (a list of rows) or `inputs` (as in the Open "
            f"Inference Protocol); it has {sorted(document)[:8]}"
        )
    if isinstance(document, list):
        return {contract.inputs[0].name: rows(document, _only(contract))}
    raise BadInputError("the body must be a JSON list of rows, or an object with `instances`")


def from_csv(payload: bytes, contract: Contract) -> dict[str, Array]:
    """A tensor from CSV, one row a line; a first line of names is skipped."""
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInputError("the CSV is not UTF-8") from None
    try:
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except csv.Error as error:
        raise BadInputError(f"the body is not CSV: {error}") from None
    if lines and not _numeric(lines[0]):
        lines = lines[1:]
    if not lines:
        raise BadInputError("the CSV has no rows")
    width = len(lines[0])
    values: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if len(line) != width:
            raise BadInputError(f"CSV row {number} has {len(line)} values, row 1 has {width}")
        try:
            values.append([float(cell) for cell in line])
        except ValueError:
            raise BadInputError(f"CSV row {number} has a value that is not a number") from None
    return {contract.inputs[0].name: rows(values, _only(contract))}


def rows(data: Any, tensor: Tensor) -> Array:
    """``data`` as a batch for ``tensor``; a row without the batch dimension is a batch of one."""
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BadInputError(f"input {tensor.name} is {tensor.datatype}; send it as protocol JSON")
    try:
        values = np.asarray(data)
        if values.dtype.kind not in "biuf":
            raise BadInputError(f"input {tensor.name} must be numbers in rows of equal length")
        if dtype.kind in "iu" and values.dtype.kind == "f" and not _whole(values):
            raise BadInputError(f"input {tensor.name} takes whole numbers ({tensor.datatype})")
        if dtype.kind in "iu" and values.size and _beyond(values, dtype):
            raise BadInputError(f"input {tensor.name} has values outside {tensor.datatype}")
        with np.errstate(over="ignore"):
            array = values.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(
            f"input {tensor.name} must be numbers in rows of equal length"
        ) from None
    if array.ndim == len(tensor.shape) - 1:
        array = array[np.newaxis]
    return _shaped(array, tensor)


def _whole(values: Array) -> bool:
    return bool(np.all(np.isfinite(values)) and np.all(values == np.floor(values)))


def _beyond(values: Array, dtype: np.dtype[Any]) -> bool:
    bounds = np.iinfo(dtype)
    return bool(int(values.min()) < bounds.min or int(values.max()) > bounds.max)


def _shaped(array: Array, tensor: Tensor) -> Array:
    wanted = tensor.shape
    fits = array.ndim == len(wanted) and all(
        size < 0 or size == actual for size, actual in zip(wanted, array.shape, strict=True)
    )
    if not fits:
        raise BadInputError(
            f"input {tensor.name} has shape {list(array.shape)}, the model takes {list(wanted)} "
            "(-1 is any size)"
        )
    if array.shape and array.shape[0] == 0:
        raise BadInputError(f"input {tensor.name} has no rows")
    return array


def _only(contract: Contract) -> Tensor:
    if len(contract.inputs) != 1:
        names = ", ".join(tensor.name for tensor in contract.inputs)
        raise BadInputError(f"the model has several inputs ({names}): send `inputs` by name")
    return contract.inputs[0]


def _named(inputs: Mapping[str, Any], contract: Contract) -> dict[str, Array]:
    wanted = {tensor.name: tensor for tensor in contract.inputs}
    if set(inputs) != set(wanted):
        raise BadInputError(f"the model takes the inputs {sorted(wanted)}, not {sorted(inputs)}")
    return {name: rows(data, wanted[name]) for name, data in inputs.items()}


def _protocol(inputs: list[Any], contract: Contract) -> dict[str, Array]:
    wanted = {tensor.name: tensor for tensor in contract.inputs}
    result: dict[str, Array] = {}
    for item in inputs:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BadInputError("each of `inputs` needs name, shape, datatype and data")
        name = item["name"]
        if name not in wanted:
            raise BadInputError(f"the model has no input {name!r}, it takes {sorted(wanted)}")
        if "data" not in item:
            raise BadInputError(f"input {name} has no data")
        shape = item.get("shape")
        data = item["data"]
        if shape is not None:
            try:
                data = np.asarray(data).reshape([int(size) for size in shape])
            except (ValueError, TypeError):
                raise BadInputError(
                    f"input {name}: its data does not fill the shape {shape}"
                ) from None
        result[name] = rows(data, wanted[name])
    if set(result) != set(wanted):
        raise BadInputError(f"the model takes the inputs {sorted(wanted)}, not {sorted(result)}")
    return result


def _numeric(cells: list[str]) -> bool:
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True


def bytes_tensor(payload: bytes) -> bytes:
    """A payload as one element of a BYTES tensor: its length (4 bytes, little-endian) and it."""
    return struct.pack("<I", len(payload)) + payload


def encode(
    inputs: Mapping[str, tuple[str, tuple[int, ...], bytes]], *, identity: str
) -> tuple[bytes, int]:
    """An infer request with binary tensors, and the length of its JSON part.

    ``inputs``: name -> (datatype, shape, raw bytes). All outputs are asked for as binary.
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


def wire(name: str, array: Array, datatype: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """One numeric tensor as ``encode`` takes it."""
    return {name: (datatype, array.shape, array.astype(DTYPES[datatype]).tobytes())}


def decode(body: bytes, json_length: int | None) -> tuple[dict[str, Any], dict[str, Array]]:
    """An infer answer: its JSON fields and its outputs by name; BYTES become objects (str)."""
    try:
        document = orjson.loads(body if json_length is None else body[:json_length])
        binary = b"" if json_length is None else body[json_length:]
        outputs: dict[str, Array] = {}
        offset = 0
        for item in document["outputs"]:
            shape = [int(size) for size in item["shape"]]
            size = (item.get("parameters") or {}).get("binary_data_size")
            if size is None:
                outputs[item["name"]] = _from_list(item["data"], item["datatype"]).reshape(shape)
                continue
            raw = binary[offset : offset + size]
            if len(raw) != size:
                raise BadAnswerError(f"output {item['name']} is cut short")
            offset += size
            if item["datatype"] == "BYTES":
                array = np.asarray(_texts(raw), dtype=object)
            else:
                array = np.frombuffer(raw, DTYPES[item["datatype"]])
            outputs[item["name"]] = array.reshape(shape)
    except (KeyError, TypeError, ValueError, struct.error) as error:
        if isinstance(error, BadAnswerError):
            raise
        raise BadAnswerError(f"the answer is not the protocol's: {error!r}") from error
    return document, outputs


def _from_list(data: Any, datatype: str) -> Array:
    if datatype == "BYTES":
        return np.asarray(data, dtype=object)
    return np.asarray(data, dtype=DTYPES[datatype])


def _texts(raw: bytes) -> list[str]:
    texts: list[str] = []
    offset = 0
    while offset < len(raw):
        (length,) = struct.unpack_from("<I", raw, offset)
        texts.append(raw[offset + 4 : offset + 4 + length].decode("utf-8", "replace"))
        offset += 4 + length
    return texts
