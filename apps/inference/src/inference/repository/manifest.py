"""``model.json``: what stands beside ``model.onnx``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from inference.errors import ModelError
from kit.oip.samples import check_size

FILE = "model.json"
MODEL_FILE = "model.onnx"

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a model or a version may be called: it becomes part of paths and of metric labels."""


_ALIKE = 0.8
"""How alike (difflib) a field is to a known one of which it is a misspelling."""


def _is_data(name: str) -> str:
    if name in (FILE, MODEL_FILE):
        raise ValueError(f"{name} is not one of the model's data files")
    return name


Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
DataFile = Annotated[str, Field(pattern=NAME), AfterValidator(_is_data)]


class TensorSpec(BaseModel):
    """A tensor's name, datatype and shape; -1 is a dimension of any size."""

    model_config = ConfigDict(frozen=True)

    name: str
    datatype: Datatype
    shape: list[Annotated[int, Field(ge=-1)]]
    free_rank: Annotated[bool, Field(exclude=True)] = False
    """The model takes any number of dimensions; ``shape`` says nothing then."""


def suits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a tensor of ``shape`` is one of ``wanted``, in which -1 is any size."""
    return len(shape) == len(wanted) and all(
        size == expected or expected < 0 for size, expected in zip(shape, wanted, strict=True)
    )


class Batching(BaseModel):
    """How requests for a model are put together; what is absent comes from the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    force: bool = False
    """Batch although nothing proves that rows stay apart; ``owner`` answers for it."""
    owner: Annotated[str, Field(max_length=128)] = ""
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    max_queue_size: Annotated[int, Field(ge=1)] | None = None
    max_queue_delay_ms: Annotated[float, Field(ge=0)] | Literal["auto"] | None = None
    instances: Annotated[int, Field(ge=1, le=64)] | None = None

    @model_validator(mode="after")
    def _owned(self) -> Self:
        if self.force and not self.owner.strip():
            raise ValueError('force needs the owner\'s name: "owner": "who answers for it"')
        if self.force and not self.enabled:
            raise ValueError("force and enabled: false contradict each other")
        return self


def _small(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    check_size(samples)
    return samples


class Manifest(BaseModel):
    """The part of ``model.json`` the server reads; the rest is for people and registries."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=NAME)]
    format: Literal["onnx"] = "onnx"
    sha256: Sha256 | None = None
    data_files: dict[DataFile, Sha256] = {}
    """Files beside ``model.onnx`` that hold its weights (ONNX external data)."""
    inputs: list[TensorSpec] | None = None
    outputs: list[TensorSpec] | None = None
    columns: list[str] = []
    """Names of the values of a row, where the model has one input: what a CSV header may hold."""
    labels: list[str] = []
    preprocess: list[dict[str, Any]] = []
    postprocess: list[dict[str, Any]] = []
    batching: Batching = Batching()
    samples: Annotated[list[dict[str, Any]], AfterValidator(_small)] = []
    """Requests in the protocol's JSON that the model answers: it is warmed up with them."""


def parse(document: bytes, *, where: str) -> Manifest:
    """The manifest; ModelError names the file and the first field that is wrong.

    A field that is not known is for people and registries, unless it is a known one misspelt.
    """
    try:
        manifest = Manifest.model_validate_json(document)
    except ValidationError as error:
        field, said = _misspelt(document), error.errors()[0]
        if field is not None:  # it may be why another one is missing
            raise ModelError(f"{where}: {field}") from None
        path = ".".join(str(part) for part in said["loc"]) or "document"
        raise ModelError(f"{where}: {path}: {said['msg']}") from None
    if (field := _misspelt(document)) is not None:
        raise ModelError(f"{where}: {field}")
    return manifest


def _misspelt(document: bytes) -> str | None:
    """What is wrong with the first field that is a known one in another spelling."""
    try:
        fields = json.loads(document)
    except ValueError:
        return None
    known = list(Manifest.model_fields)
    for field in fields if isinstance(fields, dict) else ():
        if field in known:
            continue
        plain = field.lower().replace("-", "_").replace(" ", "_")
        close = difflib.get_close_matches(plain, known, n=1, cutoff=_ALIKE)
        if close:
            return f"there is no field {field!r}: did you mean {close[0]!r}?"
    return None
