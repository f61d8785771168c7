"""Prepared images as the one input of a model."""

from __future__ import annotations

import io
import math
from typing import cast

import numpy as np
from PIL import Image

from inference.errors import BadRequest, ModelError
from inference.repository import manifest as manifests
from inference.repository.manifest import TensorSpec, suits
from kit.oip.datatypes import of_array
from kit.oip.tensors import Array
from kit.transforms import Preparation, TransformError


def fit_images(spec: TensorSpec, rows: Array, *, batched: bool) -> Array:
    """Prepared images as the model's input; BadRequest where they are not of its shape."""
    if suits(rows.shape, spec.shape):
        return rows
    if not batched:  # one image, which may be all of the input or lack dimensions of 1
        if suits(rows.shape[1:], spec.shape):
            return cast("Array", rows[0])
        wanted = [size if size >= 0 else 1 for size in spec.shape]
        if rows.size == math.prod(wanted):
            return rows.reshape(wanted)
    raise BadRequest(
        f"input {spec.name!r} has shape {spec.shape}, prepared images have {list(rows.shape)}"
    )


def try_preparation(prepare: Preparation, spec: TensorSpec, *, batched: bool) -> None:
    """ModelError where no image could ever become the model's input.

    Without a resize the caller's image decides the shape; then only the datatype can be known.
    """
    resized = prepare.resizes
    width = 8 if resized else max(1, abs(math.prod(spec.shape[1:])))
    try:
        rows = np.stack([prepare(_picture(width))])
        made = of_array(rows.dtype)
        if made != spec.datatype:
            raise ModelError(
                f"{manifests.FILE}: preprocess gives {made}, input {spec.name!r} is {spec.datatype}"
            )
        if resized:
            fit_images(spec, rows, batched=batched)
    except TransformError as error:
        if resized:
            raise ModelError(f"{manifests.FILE}: preprocess: {error}") from None
    except BadRequest as error:
        raise ModelError(f"{manifests.FILE}: preprocess: {error.message}") from None


def _picture(width: int) -> bytes:
    picture = io.BytesIO()
    Image.new("L", (width, 1)).save(picture, format="PNG")
    return picture.getvalue()
