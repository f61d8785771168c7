"""A payload as the tensors that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import numpy as np

from kit.http.problem import Problem
from kit.oip.errors import BadTensorError
from kit.oip.messages import Packed, pack
from kit.oip.tensors import bytes_element
from kit.pictures.decode import FIXED_BYTES
from kit.pictures.pool import BusyError, Decoding, TooCostlyError, csv_memory, json_memory
from kit.transforms import TransformError
from proxy.models import tensors
from proxy.models.metadata import Contract
from proxy.predictions.inputs import CSV, IMAGES, JSON, Prepared

HEAD_BYTES = 1024
"""Memory that the look at a picture's head takes."""
INLINE_BYTES = 16 * 1024
INLINE_MEMORY = FIXED_BYTES + 512 * 1024
"""What is smaller and takes less memory is decoded on the event loop: a thread would take longer.

The memory bounds the time as well: a picture of 100,000 pixels takes a millisecond or two."""
P = ParamSpec("P")
T = TypeVar("T")


async def prepare(
    payload: bytes,
    content_type: str,
    contract: Contract,
    decoding: Decoding,
    *,
    on_server: bool,
) -> Prepared:
    """The input as tensors, by the model's contract. Problem 400, 415 or 429.

    What takes more than a little memory is decoded off the event loop, all of it together
    within the memory there is for that. ``on_server`` leaves an image as it is, for a server
    that prepares it.
    """
    if not payload:
        raise Problem(400, "empty-body", "the request has no body; send an image, JSON or CSV")
    try:
        if content_type in IMAGES:
            return await _prepare_image(payload, contract, decoding, on_server=on_server)
        known = json_memory if content_type.startswith(JSON) else csv_memory
        arrays = await _decode(
            decoding, payload, known(payload), "the body",
            tensors.read, payload, contract, content_type,
        )  # fmt: skip
        if files := tensors.pictures(arrays, contract):
            return await _prepare_files(files, contract, decoding, on_server=on_server)
    except (TransformError, BadTensorError, TooCostlyError) as error:
        raise Problem(400, "bad-input", f"{contract.model}: {error}") from None
    except BusyError as error:
        raise Problem(
            429, "decoding-busy", f"{contract.model}: {error}", headers={"retry-after": "1"}
        ) from None
    datatypes = {tensor.name: tensor.datatype for tensor in contract.inputs}
    inputs: Packed = {}
    for name, array in arrays.items():
        inputs |= pack(name, array, datatypes[name])
    return Prepared(inputs, tensors.count_rows(arrays, contract.inputs))


async def _prepare_image(
    payload: bytes, contract: Contract, decoding: Decoding, *, on_server: bool
) -> Prepared:
    if contract.preparation is None:
        raise Problem(
            415,
            "unsupported-media-type",
            f"{contract.model} takes no images (its contract has no `preprocess`); "
            f"send {JSON} or {CSV}",
        )
    tensor = contract.inputs[0]
    if on_server:
        return Prepared({tensor.name: ("BYTES", (1,), bytes_element(payload))}, 1)
    image = contract.preparation.read_head(payload)
    row = await _decode(decoding, payload, image.memory, "the image", image.row)
    return Prepared(pack(tensor.name, tensors.converted(row, tensor), tensor.datatype), 1)


async def _prepare_files(
    files: Sequence[bytes], contract: Contract, decoding: Decoding, *, on_server: bool
) -> Prepared:
    """A row for each of several pictures; all their rows are in memory together."""
    preparation, tensor = contract.preparation, contract.inputs[0]
    assert preparation is not None
    if on_server:
        elements = b"".join(bytes_element(each) for each in files)
        return Prepared({tensor.name: ("BYTES", (len(files),), elements)}, len(files))

    def memory() -> int:
        heads = [preparation.read_head(each) for each in files]
        return max(head.memory for head in heads) + 2 * sum(head.result for head in heads)

    def packed() -> Packed:
        each_row = [preparation(each) for each in files]
        if len({row.shape for row in each_row}) > 1:
            raise BadTensorError(f"input {tensor.name!r}: the images differ in shape")
        rows = np.stack(each_row)
        return pack(tensor.name, tensors.converted(rows, tensor), tensor.datatype)

    what = f"{len(files)} images"
    most = await decoding.run(HEAD_BYTES * len(files), what, memory)
    return Prepared(await decoding.run(most, what, packed), len(files))


async def _decode(
    decoding: Decoding,
    payload: bytes,
    memory: int,
    what: str,
    work: Callable[P, T],
    *arguments: P.args,
    **named: P.kwargs,
) -> T:
    """Little work is done here, one after another; the rest waits for memory and a thread."""
    if len(payload) <= INLINE_BYTES and memory <= INLINE_MEMORY:
        return work(*arguments, **named)
    return await decoding.run(memory, what, work, *arguments, **named)
