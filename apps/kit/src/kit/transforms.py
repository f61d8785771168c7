"""Named transforms between what a person sends and what a model takes, and back.

``model.json`` lists them by name, so the same file tells the proxy how to prepare an image,
the model server how to take a raw one, and nobody needs a model's own code:

    "preprocess":  [{"transform": "decode_image", "mode": "L"},
                    {"transform": "resize", "width": 8, "height": 8},
                    {"transform": "scale", "factor": 0.0627},
                    {"transform": "reshape", "shape": [64]}],
    "postprocess": [{"transform": "label_lookup", "input": "probabilities", "output": "class"}]

A pipeline prepares one row: bytes in, an array of the model's input shape without the batch
dimension out. Post-processing works on whole batches.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Array = NDArray[Any]
T = TypeVar("T")

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 40_000_000
"""Largest image that is decoded; a 1 KB file can claim a million times its size."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class TransformError(ValueError):
    """A transform is unknown or misconfigured, or the payload does not suit it."""


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DecodeImage(_Step):
    """Bytes of a PNG, JPEG or WebP file become uint8 pixels [height, width(, channels)].

    ``invert`` swaps dark and light: for pictures of dark ink on light paper.
    """

    transform: Literal["decode_image"]
    mode: Literal["L", "RGB"] = "RGB"
    invert: bool = False
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)

    def decode(self, payload: bytes) -> Array:
        """Pixels of the image; TransformError when it is no image or too large a one."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own bomb warning; ours is an error
                with Image.open(io.BytesIO(payload), formats=IMAGE_FORMATS) as image:
                    if image.width * image.height > self.max_pixels:
                        raise TransformError(
                            f"image of {image.width}x{image.height} pixels is larger than "
                            f"{self.max_pixels} pixels: send a smaller one"
                        )
                    flat = _on_white(image) if "A" in image.getbands() else image
                    pixels = np.asarray(flat.convert(self.mode))
        except UnidentifiedImageError:
            raise TransformError(
                f"payload of {len(payload)} bytes is no PNG, JPEG or WebP image"
            ) from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, TransformError):
                raise
            raise TransformError(f"image cannot be decoded: {error}") from None
        return 255 - pixels if self.invert else pixels

    def apply(self, value: Array) -> Array:
        """Refuses: only the first step of a pipeline decodes."""
        raise TransformError("decode_image must be the first transform")


class Resize(_Step):
    """Pixels are resampled to ``width`` x ``height``.

    ``box`` is the exact inverse of an enlargement by a whole number.
    """

    transform: Literal["resize"]
    width: int = Field(gt=0, le=16384)
    height: int = Field(gt=0, le=16384)
    method: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "box"

    def apply(self, value: Array) -> Array:
        """uint8 [h, w(, c)] becomes uint8 [height, width(, c)]."""
        if value.dtype != np.uint8 or value.ndim not in (2, 3):
            raise TransformError(
                f"resize takes uint8 pixels, got {value.dtype} of shape {list(value.shape)}: "
                "put it right after decode_image"
            )
        image = Image.fromarray(value)
        return np.asarray(image.resize((self.width, self.height), _RESAMPLING[self.method]))


class Scale(_Step):
    """``value * factor + offset`` as float32."""

    transform: Literal["scale"]
    factor: float = 1.0
    offset: float = 0.0

    def apply(self, value: Array) -> Array:
        """Any shape; float32 out."""
        return (value.astype(np.float32) * np.float32(self.factor)) + np.float32(self.offset)


class Round(_Step):
    """To the nearest whole number, still float32."""

    transform: Literal["round"]

    def apply(self, value: Array) -> Array:
        """Any shape; float32 out."""
        return np.rint(value.astype(np.float32))


class Normalize(_Step):
    """``(value - mean) / std`` over the last axis (channels)."""

    transform: Literal["normalize"]
    mean: list[float] = Field(min_length=1)
    std: list[float] = Field(min_length=1)

    def apply(self, value: Array) -> Array:
        """[..., channels] with as many channels as ``mean`` and ``std`` have, or one of each."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        try:
            normalized: Array = (value.astype(np.float32) - mean) / std
        except ValueError as error:
            raise TransformError(f"normalize: {error}") from None
        return normalized


class Transpose(_Step):
    """Axes in another order: ``[2, 0, 1]`` turns height, width, channels into channels first."""

    transform: Literal["transpose"]
    axes: list[int] = Field(min_length=1)

    def apply(self, value: Array) -> Array:
        """The array with its axes in the given order."""
        try:
            return np.transpose(value, self.axes)
        except ValueError as error:
            raise TransformError(
                f"transpose: axes {self.axes} do not suit shape {list(value.shape)}: {error}"
            ) from None


class Reshape(_Step):
    """To ``shape`` in row-major order, which must hold as many elements."""

    transform: Literal["reshape"]
    shape: list[int]

    def apply(self, value: Array) -> Array:
        """The array in the given shape."""
        try:
            return value.reshape(self.shape)
        except ValueError as error:
            raise TransformError(f"reshape: {error}") from None


PrepareStep = Annotated[
    DecodeImage | Resize | Scale | Round | Normalize | Transpose | Reshape,
    Field(discriminator="transform"),
]


class Softmax(_Step):
    """Scores of ``input`` become probabilities under the name ``output``, over the last axis."""

    transform: Literal["softmax"]
    input: str
    output: str = "probabilities"

    def apply(self, outputs: dict[str, Array], labels: Sequence[str]) -> None:
        """Adds one float32 array of the input's shape."""
        scores = _need(outputs, self.input, "softmax").astype(np.float64)
        shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outputs[self.output] = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)


class LabelLookup(_Step):
    """The label of the largest score in each row of ``input``, under the name ``output``.

    ``labels`` default to those of ``model.json``. The largest score itself goes to
    ``score_output`` where that is given.
    """

    transform: Literal["label_lookup"]
    input: str
    output: str = "class"
    score_output: str | None = None
    labels: list[str] | None = None

    def apply(self, outputs: dict[str, Array], labels: Sequence[str]) -> None:
        """[n, classes] adds an object array [n] of str."""
        scores = _need(outputs, self.input, "label_lookup")
        names = self.labels or list(labels)
        if scores.ndim != 2 or scores.shape[1] != len(names):
            raise TransformError(
                f"label_lookup: {self.input} has shape {list(scores.shape)}, "
                f"but there are {len(names)} labels"
            )
        best = scores.argmax(axis=1)
        outputs[self.output] = np.asarray(names, dtype=object)[best]
        if self.score_output is not None:
            outputs[self.score_output] = scores[np.arange(len(best)), best]


FinishStep = Annotated[Softmax | LabelLookup, Field(discriminator="transform")]

_PREPARE: TypeAdapter[list[PrepareStep]] = TypeAdapter(list[PrepareStep])
_FINISH: TypeAdapter[list[FinishStep]] = TypeAdapter(list[FinishStep])


class Preparation:
    """The ``preprocess`` list of a model, checked and ready to use from any thread."""

    def __init__(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """TransformError names the step that is unknown or misconfigured."""
        self.steps = _checked(_PREPARE, steps, "preprocess")
        for position, step in enumerate(self.steps):
            if (position == 0) != isinstance(step, DecodeImage):
                raise TransformError(
                    f"preprocess[{position}] is {step.transform}: decode_image comes first, once"
                )

    def __call__(self, payload: bytes) -> Array:
        """One row, a C-contiguous array without the batch dimension."""
        first, *rest = self.steps
        assert isinstance(first, DecodeImage)
        value = first.decode(payload)
        for step in rest:
            value = step.apply(value)
        return np.ascontiguousarray(value)


class Finish:
    """The ``postprocess`` list of a model."""

    def __init__(self, steps: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> None:
        """TransformError names the step that is unknown or misconfigured."""
        self.steps = _checked(_FINISH, steps, "postprocess")
        self.labels = tuple(labels)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are added."""
        names: list[str] = []
        for step in self.steps:
            names.append(step.output)
            if isinstance(step, LabelLookup) and step.score_output is not None:
                names.append(step.score_output)
        return tuple(names)

    def __call__(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name and what the steps add to them."""
        result = dict(outputs)
        for step in self.steps:
            step.apply(result, self.labels)
        return result


def _need(outputs: Mapping[str, Array], name: str, step: str) -> Array:
    if name not in outputs:
        raise TransformError(f"{step}: the model has no output {name!r}, only {sorted(outputs)}")
    return outputs[name]


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    page = Image.new("RGBA", rgba.size, "white")
    page.alpha_composite(rgba)
    return page


def _checked(
    adapter: TypeAdapter[list[T]], steps: Sequence[Mapping[str, Any]], field: str
) -> tuple[T, ...]:
    try:
        return tuple(adapter.validate_python([dict(step) for step in steps]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TransformError(f"{field}[{where}]: {first['msg']}") from None
