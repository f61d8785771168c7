"""Rows without a form of their own: ``{"instances": …}``, ``{"inputs": {…}}`` or a bare list.

Source: KServe, "V1 Inference Protocol"; a row that stands alone, without the list around it, is
accepted as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kit.oip.errors import BadTensorError
from kit.oip.inputs import Spec, check_input, check_shape, input_spec
from kit.oip.tensors import Array, from_json, kind_of, shaped

S = TypeVar("S", bound=Spec)
SIGNATURE = "serving_default"
"""The one signature that a model has here; TensorFlow Serving's default."""
_TENSOR = frozenset({"name", "datatype", "shape"})


def is_protocol(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an infer request of the protocol: its inputs are tensors."""
    inputs = document.get("inputs")
    if type(inputs) is not list or not inputs or type(inputs[0]) is not dict:
        return False
    return not _TENSOR.isdisjoint(inputs[0])  # a name that is missing is for its reader to say


def read_rows(
    document: Any, inputs: Mapping[str, S], *, model: str, takes_images: bool
) -> list[tuple[S, Array, bool]]:
    """The tensors in a decoded body, each with its spec and whether it holds raw images.

    ``instances`` are rows, ``inputs`` columns by name, a list is rows of the model's one input.
    BadTensorError names what is wrong.
    """
    if type(document) is list:
        document = {"instances": document}
    if type(document) is not dict:
        raise BadTensorError(
            f"the body must be a JSON object with `instances` or `inputs`, or a list of rows; "
            f"it is {kind_of(document)}"
        )
    signature = document.get("signature_name")
    if signature not in (None, SIGNATURE):
        raise BadTensorError(
            f"signature_name is {repr(signature)[:80]}: model {model!r} has one signature, "
            f"{SIGNATURE!r}; leave signature_name out"
        )
    if "instances" in document and "inputs" in document:
        raise BadTensorError("both instances and inputs are given: send one of them")
    if "instances" in document:
        instances = document["instances"]
        if type(instances) is not list or not instances:
            raise BadTensorError("instances must be a list of at least one")
        columns = _columns(instances, inputs, model)
    elif "inputs" in document:
        named = document["inputs"]
        if is_protocol(document):
            raise BadTensorError(
                "inputs are tensors of the Open Inference Protocol: send them to "
                f"/v2/models/{model}/infer, or give each input's values by its name, "
                '{"inputs": {"name": …}}'
            )
        columns = named if type(named) is dict else {only_input(inputs, model).name: named}
    else:
        raise BadTensorError(
            "instances is missing: send `instances` (a list of rows) or `inputs` (as in the Open "
            f"Inference Protocol); the body has {sorted(document)[:8]}"
        )
    found: list[tuple[S, Array, bool]] = []
    for name, data in columns.items():
        spec = input_spec(name, inputs, (), model=model)
        if type(data) is dict and set(data) == {"b64"}:
            texts = data["b64"]
            if type(texts) is not list:
                raise BadTensorError(f"input {name!r}: b64 must be a list of base64 texts")
            values, images = _encoded(spec, texts, takes_images=takes_images)
        else:
            values, images = fitted(spec, data), False
        found.append((spec, values, images))
    return found


def only_input(inputs: Mapping[str, S], model: str) -> S:
    """The model's one input; BadTensorError where it has several."""
    if len(inputs) != 1:
        raise BadTensorError(
            f"model {model!r} takes the inputs {sorted(inputs)}: name them in each instance"
        )
    return next(iter(inputs.values()))


def fitted(spec: Spec, data: Any) -> Array:
    """Nested lists as the model's input, their shape read off and checked.

    Three forms beside the exact one have but one meaning and are accepted: a single row without the
    batch dimension, a list of values for rows of one value, and a column of one-element lists for
    a model that takes bare values. A spec with a true ``free_rank`` takes the form as it is.
    """
    shape, wanted = _shape_of(data), spec.shape
    as_sent = shape
    if getattr(spec, "free_rank", False):
        pass
    elif len(shape) == len(wanted) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) == 1 and list(wanted[1:]) == [1]:
        shape = [*shape, 1]
    elif len(shape) == len(wanted) - 1:
        shape = [1, *shape]
    check_shape(spec, shape)
    values = from_json(spec.name, spec.datatype, as_sent, data if as_sent else [data])
    return shaped(spec.name, shape, values)


def _encoded(spec: Spec, texts: list[Any], *, takes_images: bool) -> tuple[Array, bool]:
    """Base64 texts as BYTES elements, or as pictures for the model to prepare."""
    shape: Sequence[int] = [len(texts)]
    if spec.datatype == "BYTES" and list(spec.shape[1:]) == [1]:
        shape = [len(texts), 1]
    values = from_json(spec.name, "BYTES", [len(texts)], texts, base64_bytes=True)
    images = check_input(spec, "BYTES", shape, takes_images=takes_images)
    return values.reshape(shape), images


def _columns(instances: list[Any], inputs: Mapping[str, Spec], model: str) -> dict[str, Any]:
    if type(instances[0]) is not dict:
        return {only_input(inputs, model).name: instances}
    if set(instances[0]) == {"b64"}:
        name = only_input(inputs, model).name
        if not all(type(row) is dict and set(row) == {"b64"} for row in instances):
            raise BadTensorError("instances: either all or none are base64 objects")
        return {name: {"b64": [row["b64"] for row in instances]}}
    names = set(instances[0])
    for position, row in enumerate(instances):
        if type(row) is not dict or set(row) != names:
            raise BadTensorError(f"instances[{position}] has other inputs than instances[0]")
    return {name: [row[name] for row in instances] for name in names}


def _shape_of(data: Any) -> list[int]:
    shape = []
    while type(data) is list:
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return shape
