"""The samples of ``model.json`` as a model's inputs, to warm up and to try it with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from inference.errors import BadRequest, ModelError
from inference.repository.manifest import Manifest, TensorSpec
from kit.oip.errors import BadTensorError
from kit.oip.samples import read_samples
from kit.oip.tensors import Array, as_text
from kit.transforms import Preparation, TransformError


def feeds_of(
    described: Manifest,
    inputs: tuple[TensorSpec, ...],
    prepare: Preparation | None,
    fit: Callable[[TensorSpec, Array], Array],
) -> list[dict[str, Array]]:
    """The samples as the model's inputs; ModelError names the first that does not suit it.

    Pictures are prepared, and ``fit`` makes the input of them.
    """
    by_name = {spec.name: spec for spec in inputs}
    takes_images = prepare is not None and len(inputs) == 1
    made: list[dict[str, Array]] = []
    try:
        read = read_samples(
            described.samples, by_name, model=described.name, takes_images=takes_images
        )
        for feeds, images in read:
            for name, values in feeds.items():
                if images and prepare is not None:
                    rows = np.stack([prepare(value) for value in values.ravel()])
                    feeds[name] = fit(by_name[name], rows)
                elif by_name[name].datatype == "BYTES":
                    feeds[name] = as_text(name, values)
            made.append(feeds)
    except (BadRequest, BadTensorError, TransformError, ValueError) as error:
        words = error.message if isinstance(error, BadRequest) else str(error)
        raise ModelError(f"model.json: {words}") from None
    return made
