"""Inputs as people send them, as the tensors a model takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import orjson

from kit import json_names
from kit.oip.csv_rows import decode_text, read_csv
from kit.oip.datatypes import NUMPY
from kit.oip.errors import BadTensorError
from kit.oip.inputs import check_all_given, check_shape, read_input, row_count
from kit.oip.rows import fitted, is_protocol, only_input, read_rows
from kit.oip.tensors import Array, as_text
from proxy.models.metadata import Contract, Tensor


def read(payload: bytes, contract: Contract, content_type: str) -> dict[str, Array]:
    """Tensors by name from JSON, CSV or plain text. BadTensorError names what is wrong."""
    bare = content_type.partition(";")[0]
    if bare == "text/csv":
        return from_csv(payload, contract, content_type)
    if bare == "text/plain":
        return from_text(payload, contract, content_type)
    return from_json(payload, contract)


def from_json(payload: bytes, contract: Contract) -> dict[str, Array]:
    """Tensors by name from a JSON body.

    Accepted: a list of rows; ``{"instances": [rows]}``; ``{"inputs": [{name, shape, datatype,
    data}]}`` as in the protocol; ``{"inputs": {name: rows}}``. A single row may stand alone.
    Pictures in base64, for a model that prepares them, come back as they were before: see
    :func:`pictures`. BadTensorError names what is wrong.
    """
    takes_images = contract.preparation is not None and len(contract.inputs) == 1
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise BadTensorError(f"the body is not JSON: {error}") from None
    name = json_names.repeated_name(payload, document)
    if name is not None:
        raise BadTensorError(json_names.message(name))
    inputs = {tensor.name: tensor for tensor in contract.inputs}
    result: dict[str, Array] = {}
    if not inputs and document in ({}, {"inputs": []}):
        return result
    if isinstance(document, dict) and is_protocol(document):
        _check_plain(document, contract.model)
        for item in document["inputs"]:
            spec, values, _, _ = read_input(
                item, memoryview(b""), 0, inputs, result,
                model=contract.model, takes_images=takes_images,
            )  # fmt: skip
            result[spec.name] = values
    else:
        for spec, values, _ in read_rows(
            document, inputs, model=contract.model, takes_images=takes_images
        ):
            result[spec.name] = values
    return _complete(result, inputs)


def pictures(arrays: Mapping[str, Array], contract: Contract) -> list[bytes]:
    """The files of pictures that were read instead of the model's one input, if they were."""
    if contract.preparation is None or len(contract.inputs) != 1:
        return []
    (tensor,) = contract.inputs
    found = arrays[tensor.name]
    if tensor.datatype == "BYTES" or found.dtype.kind != "O":
        return []
    return [bytes(each) for each in found.ravel()]


def _check_plain(document: dict[str, Any], model: str) -> None:
    """Refuse what an infer request can ask for and an answer for people does not do."""
    asked = [key for key in document if key not in ("inputs", "id") and document[key]]
    for position, item in enumerate(document["inputs"]):
        if isinstance(item, dict):
            known = ("name", "shape", "datatype", "data")
            asked += [f"inputs[{position}].{key}" for key in item if key not in known and item[key]]
    if asked:
        raise BadTensorError(
            f"{asked[0][:100]} has no effect here: send it to /v2/models/{model}/infer, or leave "
            "it out"
        )


def _complete(values: dict[str, Array], inputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """Every input, with as many rows as the others, and text where the model takes text."""
    check_all_given(values, inputs)
    count_rows(values, inputs.values())
    return {
        name: as_text(name, array) if inputs[name].datatype == "BYTES" else array
        for name, array in values.items()
    }


def count_rows(values: Mapping[str, Array], inputs: Collection[Tensor]) -> int:
    """How many rows the tensors have; 1 for a model whose inputs do not all begin with rows.

    BadTensorError where they differ in rows or have none.
    """
    if inputs and all(_has_rows(tensor) for tensor in inputs):
        return row_count(values)
    return 1


def _has_rows(tensor: Tensor) -> bool:
    return bool(tensor.shape) and tensor.shape[0] < 0 and not tensor.free_rank


def from_csv(payload: bytes, contract: Contract, content_type: str) -> dict[str, Array]:
    """Tensors by name from CSV, one row a line; see :func:`kit.oip.csv_rows.read_csv`."""
    inputs = {tensor.name: tensor for tensor in contract.inputs}
    found = read_csv(payload, content_type, inputs, model=contract.model, columns=contract.columns)
    return _complete({spec.name: values for spec, values in found}, inputs)


def from_text(payload: bytes, contract: Contract, content_type: str) -> dict[str, Array]:
    """One text, the complete body in UTF-8, for a model with one input of text."""
    inputs = {tensor.name: tensor for tensor in contract.inputs}
    tensor = only_input(inputs, contract.model)
    if tensor.datatype != "BYTES":
        raise BadTensorError(f"input {tensor.name!r} is {tensor.datatype}: send JSON or CSV")
    text = decode_text(payload, content_type)
    return _complete({tensor.name: fitted(tensor, text if not tensor.shape else [text])}, inputs)


def converted(values: Array, tensor: Tensor) -> Array:
    """An array made by a transform or by another model, as a batch for ``tensor``.

    A row without the batch dimension is a batch of one. BadTensorError where a number would not
    survive: a fraction or NaN for integers, or one out of the datatype's range.
    """
    dtype = NUMPY.get(tensor.datatype)
    if dtype is None or (dtype.kind == "O") != (values.dtype.kind == "O"):
        raise BadTensorError(
            f"input {tensor.name!r} is {tensor.datatype}, what it would get is {values.dtype}"
        )
    if dtype.kind in "iu" and values.size:
        if values.dtype.kind == "f" and not _whole(values):
            raise BadTensorError(f"input {tensor.name!r} takes integers ({tensor.datatype})")
        if _beyond(values, dtype):
            raise BadTensorError(f"input {tensor.name!r} has values outside {tensor.datatype}")
    with np.errstate(over="ignore"):
        array = values.astype(dtype)
    if dtype.kind == "f" and np.count_nonzero(np.isfinite(array)) != _finite_count(values):
        raise BadTensorError(f"input {tensor.name!r} has values outside {tensor.datatype}")
    if array.ndim == len(tensor.shape) - 1 and not tensor.free_rank:
        array = array[np.newaxis]
    check_shape(tensor, array.shape)
    if array.shape and array.shape[0] == 0:
        raise BadTensorError(f"input {tensor.name!r} has no rows")
    return array


def _whole(values: Array) -> bool:
    return bool(np.all(np.isfinite(values)) and np.all(values == np.floor(values)))


def _beyond(values: Array, dtype: np.dtype[Any]) -> bool:
    bounds = np.iinfo(dtype)
    return bool(int(values.min()) < bounds.min or int(values.max()) > bounds.max)


def _finite_count(values: Array) -> int:
    return int(np.count_nonzero(np.isfinite(values))) if values.dtype.kind == "f" else values.size
