"""What an earlier version of an archive left below its prefix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import overload

from unzip.extract.extractor import Extractor
from unzip.extract.source import MANIFEST, SOURCE_TAG
from unzip.s3.errors import Conflict, Missing
from unzip.s3.types import Entry, Store
from unzip.zip.member import Member

_DELETED_PER_RENEWAL = 100
_MD5 = re.compile('"[0-9a-f]{32}"')
_MD5_BYTES = 16


class ETags(Sequence[str]):
    """An ETag, or "", for each of ``count`` numbers. One that is an MD5 takes 16 bytes of memory,
    for there are a hundred thousand; as text it takes 91."""

    def __init__(self, count: int = 0) -> None:
        self._count = count
        self._digests = bytearray(_MD5_BYTES * count)
        self._others: dict[int, str] = {}

    def __len__(self) -> int:
        return self._count

    def __setitem__(self, index: int, etag: str) -> None:
        at = index * _MD5_BYTES
        digest = bytes.fromhex(etag.strip('"')) if _MD5.fullmatch(etag) else b""
        if any(digest):
            self._digests[at : at + _MD5_BYTES] = digest
        else:
            self._others[index] = etag

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(self._count)[index]]
        index = range(self._count)[index]
        digest = self._digests[index * _MD5_BYTES : (index + 1) * _MD5_BYTES]
        return self._others.get(index) or (f'"{digest.hex()}"' if any(digest) else "")


@dataclass(slots=True)
class Earlier:
    """Objects that are below the prefix already, without their keys.

    ``members`` has for each member the ETag of what is at its key, or ""; it is empty where
    nothing is at any. ``manifest`` is the ETag of the manifest or "", and ``others`` says whether
    there are objects of other names.
    """

    members: ETags = field(default_factory=ETags)
    manifest: str = ""
    others: bool = False


def find_earlier(store: Store, prefix: str, listed: Sequence[Member]) -> Earlier:
    """What is below ``prefix`` before ``listed`` is written there."""
    found = Earlier()
    indices: dict[bytes, int] | None = None
    for path, entry in _below(store, prefix):
        if indices is None:  # only where there is anything
            indices = {member.utf8: index for index, member in enumerate(listed)}
        if path == MANIFEST.encode():
            found.manifest = entry.etag
        elif path in indices:
            found.members = found.members or ETags(len(listed))
            found.members[indices[path]] = entry.etag
        else:
            found.others = True
    return found


def remove_leftovers(
    store: Store,
    prefix: str,
    listed: Sequence[Member],
    tag: str,
    *,
    extractor: Extractor,
    renew: Callable[[], object],
) -> None:
    """Delete what another version than ``tag`` wrote below ``prefix`` and this one does not have.

    Only objects that carry our mark: what others put there is theirs. ``renew`` raises if the
    archive is no longer ours; it is asked between the listing of a file and its deletion, so what
    a successor wrote since then has another ETag and stays.
    """
    paths = {member.utf8 for member in listed}
    paths.add(MANIFEST.encode())
    rows = (entry for path, entry in _below(store, prefix) if path not in paths)
    while some := list(islice(rows, _DELETED_PER_RENEWAL)):
        stale: list[Entry] = []
        extractor.each(partial(_examine, store, entry, tag, stale) for entry in some)
        if stale:
            renew()
            extractor.each(partial(_delete, store, entry) for entry in stale)


def _below(store: Store, prefix: str) -> Iterator[tuple[bytes, Entry]]:
    for entry in store.entries(prefix):
        yield entry.key[len(prefix) :].encode(), entry


def _examine(store: Store, entry: Entry, tag: str, stale: list[Entry]) -> None:
    with suppress(Missing):
        other = store.head(entry.key).metadata.get(SOURCE_TAG)
        if other and other != tag:
            stale.append(entry)


def _delete(store: Store, entry: Entry) -> None:
    with suppress(Conflict):
        store.delete(entry.key, entry.etag)
