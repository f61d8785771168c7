"""Samples of ``model.json``: requests in the protocol's JSON that the model answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from kit.oip.errors import BadTensorError
from kit.oip.inputs import S, check_all_given, read_input
from kit.oip.tensors import Array

MAX_BYTES = 65_536
"""How much JSON all samples of a model may be."""


def check_size(samples: Sequence[Mapping[str, Any]]) -> None:
    """BadTensorError where the samples are more JSON than ``MAX_BYTES``."""
    size = len(orjson.dumps(list(samples)))
    if size > MAX_BYTES:
        raise BadTensorError(
            f"samples take {size} bytes of JSON, {MAX_BYTES} are allowed: give fewer or smaller"
        )


def read_samples(
    samples: Sequence[Mapping[str, Any]],
    inputs: Mapping[str, S],
    *,
    model: str,
    takes_images: bool,
) -> list[tuple[dict[str, Array], bool]]:
    """Each sample's tensors by name, and whether they are encoded pictures.

    BadTensorError names the first sample that is not a request for these inputs.
    """
    check_size(samples)
    found: list[tuple[dict[str, Array], bool]] = []
    for number, sample in enumerate(samples):
        try:
            tensors = sample.get("inputs", [])
            if type(tensors) is not list:
                raise BadTensorError("inputs must be a list of tensors")
            feeds: dict[str, Array] = {}
            pictures = False
            for tensor in tensors:
                spec, values, images, _ = read_input(
                    tensor, memoryview(b""), 0, inputs, feeds,
                    model=model, takes_images=takes_images,
                )  # fmt: skip
                feeds[spec.name] = values
                pictures = pictures or images
            check_all_given(feeds, inputs)
        except BadTensorError as error:
            raise BadTensorError(f"samples[{number}]: {error}") from None
        found.append((feeds, pictures))
    return found
