"""The manifest on its way to its key: one request, or parts where it is large.

A hundred thousand names of a thousand bytes make 120 MB of JSON, which are never in memory
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial

from unzip.extract.source import MANIFEST, SOURCE_TAG
from unzip.s3.conditional_write import write_until_there
from unzip.s3.errors import StoreError
from unzip.s3.types import Absent, Condition, Part, Store
from unzip.zip.member_data import crc32

TYPE = "application/json"
PART_BYTES = 5 << 20  # S3's least


def upload_manifest(
    store: Store,
    prefix: str,
    document: Iterable[bytes],
    tag: str,
    *,
    fenced: Callable[[], object],
    part_bytes: int = PART_BYTES,
) -> None:
    """Write the manifest of version ``tag`` below ``prefix``, over nothing but what was there.

    ``fenced`` is called between parts and where somebody else was faster; it raises if the archive
    is no longer ours. ``part_bytes`` are at least S3's 5 MiB.
    """
    key = prefix + MANIFEST
    metadata = {SOURCE_TAG: tag}
    pieces = iter(document)

    def visible(write: Callable[[Condition], object]) -> None:
        write_until_there(
            store,
            key,
            write,
            Absent(),
            ours=lambda head: head.metadata.get(SOURCE_TAG) == tag,
            fenced=fenced,
        )

    first = _part(pieces, part_bytes)
    if len(first) < part_bytes:
        visible(partial(store.put, key, first, TYPE, metadata))
        return
    identity = store.create_upload(key, TYPE, metadata)
    try:
        rows: list[Part] = []
        crc = 0
        body = first
        del first
        while body:
            fenced()
            rows.append(store.upload_part(key, identity, len(rows) + 1, body))
            crc = crc32(body, crc)
            body = _part(pieces, part_bytes)
        visible(partial(store.complete_upload, key, identity, rows, crc=crc))
        # One whose first answer was lost was begun twice, and ours is left where another call
        # for the same archive was faster.
        for upload in list(store.list_uploads(key)):
            fenced()
            store.abort_upload(upload.key, upload.id)
    except Exception:
        with suppress(StoreError):  # whoever takes the archive next drops it
            store.abort_upload(key, identity)
        raise


def _part(pieces: Iterator[bytes], size: int) -> bytearray:
    """The next pieces, ``size`` bytes and a little more; fewer at the end."""
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) >= size:
            break
    return body
