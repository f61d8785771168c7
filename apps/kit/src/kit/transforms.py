"""Named transforms between what a person sends and what a model takes, and back.

``model.json`` lists them by name, so the same file tells the proxy how to prepare an image,
the model server how to take a raw one, and nobody needs a model's own code:

    "preprocess":  [{"transform": "decode_image", "mode": "L"},
                    {"transform": "resize", "width": 8, "height": 8},
                    {"transform": "scale", "factor": 0.0627},
                    {"transform": "reshape", "shape": [64]}],
    "postprocess": [{"transform": "label_lookup", "input": "probabilities", "output": "class"}]

A pipeline prepares one row: bytes in, an array of the model's input shape without the batch
dimension out. Post-processing works on complete batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from kit.pictures.decode import MAX_PIXELS, Picture, PictureError
from kit.pictures.steps import Contrast, CropToContent, Invert, PictureStep, Resize, Step

Array = NDArray[Any]
T = TypeVar("T")

ENOUGH_TO_RESIZE = 4
"""Times the size it is resized to that a photograph is decoded at."""
ENOUGH_AT_LEAST = 512
ENOUGH_TO_LOOK = 1024
"""Pixels a side that a photograph is decoded at where its content is looked for."""
COPIES = 16
"""Bytes a value takes in the steps after the picture: uint8, float32 and copies of it."""


class TransformError(ValueError):
    """A transform is unknown or misconfigured, or the payload does not suit it."""


class DecodeImage(Step):
    """Bytes of a PNG, JPEG or WebP file become pixels, upright, transparency laid on white.

    ``invert`` swaps dark and light: for pictures of dark ink on light paper.
    """

    transform: Literal["decode_image"]
    mode: Literal["L", "RGB"] = "RGB"
    invert: bool = False
    max_pixels: int | None = Field(default=None, gt=0)


class Scale(Step):
    """``value * factor + offset`` as float32."""

    transform: Literal["scale"]
    factor: float = 1.0
    offset: float = 0.0

    def apply(self, value: Array) -> Array:
        """Any shape; float32 out."""
        return (value.astype(np.float32) * np.float32(self.factor)) + np.float32(self.offset)


class Round(Step):
    """To the nearest integer, still float32."""

    transform: Literal["round"]

    def apply(self, value: Array) -> Array:
        """Any shape; float32 out."""
        return np.rint(value.astype(np.float32))


class Normalize(Step):
    """``(value - mean) / std`` over the last axis (channels)."""

    transform: Literal["normalize"]
    mean: list[float] = Field(min_length=1)
    std: list[float] = Field(min_length=1)

    def apply(self, value: Array) -> Array:
        """[..., channels] with as many channels as ``mean`` and ``std`` have, or one of each."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        channels = value.shape[-1] if value.ndim else 1
        if {mean.size, std.size} - {1, channels}:
            raise TransformError(
                f"normalize: {mean.size} means and {std.size} deviations do not suit {channels} "
                "channels"
            )
        normalized: Array = (value.astype(np.float32) - mean) / std
        return normalized


class Transpose(Step):
    """Axes in another order: ``[2, 0, 1]`` makes channels first of height, width, channels."""

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


class Reshape(Step):
    """To ``shape`` in row-major order, which must hold as many elements."""

    transform: Literal["reshape"]
    shape: list[int]

    def apply(self, value: Array) -> Array:
        """The array in the given shape."""
        try:
            return value.reshape(self.shape)
        except ValueError as error:
            raise TransformError(f"reshape: {error}") from None


NumberStep = Scale | Round | Normalize | Transpose | Reshape

PrepareStep = Annotated[
    DecodeImage | Invert | Contrast | CropToContent | Resize | NumberStep,
    Field(discriminator="transform"),
]


class Softmax(Step):
    """Scores of ``input`` become probabilities under the name ``output``, over the last axis."""

    transform: Literal["softmax"]
    input: str
    output: str = "probabilities"

    def apply(self, outputs: dict[str, Array], labels: Sequence[str]) -> None:
        """Adds one float32 array of the input's shape."""
        scores = _need(outputs, self.input, "softmax").astype(np.float64)
        shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
        outputs[self.output] = (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)


class LabelLookup(Step):
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
        """[n, classes] adds an object array [n] of str; TransformError where a score is NaN."""
        scores = _need(outputs, self.input, "label_lookup")
        names = self.labels or list(labels)
        if scores.ndim != 2 or scores.shape[1] != len(names):
            raise TransformError(
                f"label_lookup: {self.input} has shape {list(scores.shape)}, "
                f"but there are {len(names)} labels"
            )
        if scores.dtype.kind == "f" and np.isnan(scores).any():
            row, column = np.argwhere(np.isnan(scores))[0]
            raise TransformError(
                f"label_lookup: {self.input}[{row}, {column}] is NaN, so no label of its row has "
                f"the largest score; ask for the output {self.input!r} itself to see all of it"
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

    def __init__(self, steps: Sequence[Mapping[str, Any]], *, max_pixels: int = MAX_PIXELS) -> None:
        """TransformError names the step that is unknown or misconfigured.

        ``max_pixels`` bounds the pictures that are decoded and those that are made.
        """
        self.steps = _checked(_PREPARE, steps, "preprocess")
        self._pictures: list[PictureStep] = []
        self._numbers: list[NumberStep] = []
        for position, step in enumerate(self.steps):
            where = f"preprocess[{position}]"
            if (position == 0) != isinstance(step, DecodeImage):
                raise TransformError(f"{where} is {step.transform}: decode_image comes first, once")
            if isinstance(step, PictureStep):
                if self._numbers:
                    raise TransformError(
                        f"{where} is {step.transform}, which takes pixels: put it right after "
                        f"decode_image, before {self._numbers[0].transform}"
                    )
                self._pictures.append(step)
            elif not isinstance(step, DecodeImage):
                self._numbers.append(step)
            if isinstance(step, Resize) and step.width * step.height > max_pixels:
                raise TransformError(
                    f"{where}: a resize to {step.width}x{step.height} is more than "
                    f"{max_pixels} pixels"
                )
        decode = self.steps[0] if self.steps else None
        if not isinstance(decode, DecodeImage):
            raise TransformError("preprocess is empty: decode_image comes first")
        if decode.invert:
            self._pictures.insert(0, Invert(transform="invert"))
        self._mode = decode.mode
        self._max_pixels = min(decode.max_pixels or max_pixels, max_pixels)
        self._enough = _enough(self._pictures)

    @property
    def resizes(self) -> bool:
        """Whether every picture becomes one of the same size."""
        return any(isinstance(step, Resize) for step in self._pictures)

    def read_head(self, payload: bytes) -> Undecoded:
        """What the payload's head tells, the costs of its pixels foremost; TransformError."""
        try:
            picture = Picture(
                payload, mode=self._mode, max_pixels=self._max_pixels, enough=self._enough
            )
        except PictureError as error:
            raise TransformError(str(error)) from None
        width, height, memory = picture.width, picture.height, picture.memory
        for step in self._pictures:
            if isinstance(step, Resize):
                memory += step.memory(height, picture.stored)
                width, height = step.width, step.height
        result = width * height * len(self._mode) * COPIES
        return Undecoded(picture, self._pictures, self._numbers, memory + result, result)

    def __call__(self, payload: bytes) -> Array:
        """One row, a C-contiguous array without the batch dimension."""
        return self.read_head(payload).row()


class Undecoded:
    """A picture that was looked at and can be decoded: ``row`` takes ``memory`` bytes at most.

    ``result`` of them may be in use still when it is done.
    """

    __slots__ = ("_numbers", "_picture", "_pictures", "memory", "result")

    def __init__(
        self,
        picture: Picture,
        pictures: Sequence[PictureStep],
        numbers: Sequence[NumberStep],
        memory: int,
        result: int,
    ) -> None:
        self._picture = picture
        self._pictures = pictures
        self._numbers = numbers
        self.memory = memory
        self.result = result

    def row(self) -> Array:
        """The picture as the model takes it; once, for the pixels are let go of."""
        try:
            image: Image.Image = self._picture.pixels()
        except PictureError as error:
            raise TransformError(str(error)) from None
        for step in self._pictures:
            image = step.picture(image)
        value: Array = np.asarray(image)
        for number_step in self._numbers:
            value = number_step.apply(value)
        return np.ascontiguousarray(value)


def _enough(steps: Sequence[PictureStep]) -> tuple[int, int] | None:
    """The size a photograph need not be larger than, or None where every pixel counts."""
    looks = any(isinstance(step, CropToContent) for step in steps)
    for step in steps:
        if isinstance(step, Resize):
            least = ENOUGH_TO_LOOK if looks else ENOUGH_AT_LEAST
            return (
                max(least, ENOUGH_TO_RESIZE * step.width),
                max(least, ENOUGH_TO_RESIZE * step.height),
            )
    return None


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


def _checked(
    adapter: TypeAdapter[list[T]], steps: Sequence[Mapping[str, Any]], field: str
) -> tuple[T, ...]:
    try:
        return tuple(adapter.validate_python([dict(step) for step in steps]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TransformError(f"{field}[{where}]: {first['msg']}") from None
