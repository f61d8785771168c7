"""Images of a request become the one input of its model."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from inference.engine.request import InferRequest
from inference.errors import BadRequest, DeadlineExceeded
from inference.models.images import fit_images
from inference.models.served import ServedModel
from kit.pictures.pool import Decoding
from kit.transforms import TransformError


async def read_heads(
    served: ServedModel, request: InferRequest, decoding: Decoding
) -> tuple[int, int]:
    """Bytes that the images take at most while they are decoded, and then as rows."""
    preparation, images = served.prepare, request.images
    assert preparation is not None and images is not None
    largest = rows = 0
    try:
        for image in images:
            head = await decoding.thread(preparation.read_head, image)
            largest = max(largest, head.memory)
            rows += head.result // 2
    except TransformError as error:
        raise BadRequest(f"input {served.model.inputs[0].name!r}: {error}") from None
    return largest + rows, rows


async def prepare(
    served: ServedModel, request: InferRequest, decoding: Decoding, *, deadline: float
) -> None:
    """Raw images become the model's one input, in threads: pictures can be large.

    One at a time, so that requests alternate and nothing is done for one that is over.
    """
    preparation = served.prepare
    images = request.images
    assert preparation is not None and images is not None
    spec = served.model.inputs[0]
    thread = decoding.thread
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            # what a thread is at when the time runs out holds its memory to its end
            rows = [await asyncio.shield(thread(preparation, image)) for image in images]
            values = await thread(np.stack, rows)
    except TimeoutError:
        raise too_late() from None
    except TransformError as error:
        raise BadRequest(f"input {spec.name!r}: {error}") from None
    except ValueError as error:
        raise BadRequest(f"input {spec.name!r}: images differ in shape: {error}") from None
    request.feeds = {spec.name: fit_images(spec, values, batched=served.batched)}
    if served.variable_shapes:
        request.key = (values.shape[1:],)


def too_late() -> DeadlineExceeded:
    """The error of a request whose time ran out while its images were prepared."""
    return DeadlineExceeded("the request's time ran out while its images were prepared")
