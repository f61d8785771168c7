"""A model's contract: what it takes and gives, and how a picture becomes what it takes.

It comes from `GET /v2/models/{model}`: the protocol's metadata, and beside it `properties`
with the labels and the named transforms of the model's `model.json`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from kit.oip.non_finite import Policy
from kit.transforms import Finish, Preparation, TransformError


class BadContractError(ValueError):
    """The metadata of a model that cannot be served from here."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, datatype (the protocol's) and shape of an input or output; -1 is any size.

    With ``free_rank`` every shape is accepted, whatever ``shape`` says.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    free_rank: bool = False


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything the proxy needs to know of a model.

    ``rows_independent`` is true where the model's server says that it batches requests: only
    then is a row's answer the same whatever rows are sent with it.
    """

    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    preparation: Preparation | None = None
    finish: Finish | None = None
    digest: str = ""
    non_finite: Policy = "null"
    rows_independent: bool = False

    def document(self) -> dict[str, Any]:
        """For people and programs that ask what the model takes."""
        return {
            "inputs": [_tensor_document(tensor) for tensor in self.inputs],
            "outputs": [_tensor_document(tensor) for tensor in self.outputs],
            "labels": list(self.labels),
            "columns": list(self.columns),
            "takes_images": self.preparation is not None,
        }


def parse(
    metadata: Mapping[str, Any], *, name: str, max_pixels: int, non_finite: Policy = "null"
) -> Contract:
    """The contract in a model's metadata; BadContractError names what is wrong with it.

    ``name`` is what callers know the model by. ``max_pixels`` bounds the images that are
    decoded, whatever the model allows.
    """
    properties = metadata.get("properties") or {}
    versions = metadata.get("versions") or [""]
    free_rank = [str(name) for name in properties.get("free_rank") or ()]
    labels = tuple(str(label) for label in properties.get("labels") or ())
    steps = [dict(step) for step in properties.get("preprocess") or ()]
    try:
        preparation = Preparation(steps, max_pixels=max_pixels) if steps else None
        post = properties.get("postprocess") or ()
        finish = Finish(post, labels) if post else None
        return Contract(
            model=name,
            version=str(metadata.get("version") or versions[-1]),
            inputs=tuple(_tensor(item, free_rank) for item in metadata["inputs"]),
            outputs=tuple(_tensor(item, ()) for item in metadata["outputs"]),
            labels=labels,
            columns=tuple(str(name) for name in properties.get("columns") or ()),
            preparation=preparation,
            finish=finish,
            digest=str(properties.get("sha256") or ""),
            non_finite=non_finite,
            rows_independent=_says_batched(properties),
        )
    except TransformError as error:
        raise BadContractError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadContractError(f"the model's metadata lacks or garbles {error}") from error


def _says_batched(properties: Mapping[str, Any]) -> bool:
    batching = properties.get("batching")
    return isinstance(batching, Mapping) and batching.get("enabled") is True


def _tensor(item: Mapping[str, Any], free_rank: Container[str]) -> Tensor:
    name = str(item["name"])
    shape = tuple(int(size) for size in item["shape"])
    return Tensor(name, str(item["datatype"]), shape, name in free_rank)


def _tensor_document(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
