"""Large members on their way to their keys: multipart uploads, completed when all is verified.

An upload is begun and filled while the archive is verified. Nothing of it is visible before it is
completed, and what is not completed is aborted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain

from unzip.concurrency import CallGroup
from unzip.extract import content_types
from unzip.extract.buffers import Filler, Unverified, drained
from unzip.extract.extractor import Check, Extractor, probed
from unzip.extract.source import SOURCE_TAG, Replaced, Source
from unzip.s3.errors import Conflict, StoreError
from unzip.s3.types import Condition, Part, Store
from unzip.zip import headers, member_data
from unzip.zip.member import Member

# S3 copies a range of at least 5 MiB as a part; larger ones save requests.
_COPY_PART = 64 << 20
LEAST_PART, _MOST_PARTS = 5 << 20, 9_000  # S3's are 5 MiB (but for the last part) and 10,000
_GUESSED_FROM = 4 << 20  # bytes of a large member that its content type is guessed from


@dataclass(frozen=True, slots=True)
class _Upload:
    """A multipart upload whose parts are all there, ``size`` bytes in all."""

    identity: str
    parts: list[Part]
    size: int


class Uploads:
    """The multipart uploads of one archive's large members; thread-safe."""

    def __init__(
        self,
        extractor: Extractor,
        source: Source,
        listed: list[Member],
        target: Store,
        prefix: str,
        *,
        check: Check,
    ) -> None:
        self._extractor = extractor
        self._source = source
        self._listed = listed
        self._target = target
        self._prefix = prefix
        self._check = check
        self._metadata = {SOURCE_TAG: source.tag}
        self._lock = threading.Lock()
        self._filled: dict[int, _Upload] = {}
        self._begun: dict[str, str] = {}  # upload's id to its key

    def __contains__(self, index: object) -> bool:
        """Whether all parts of a member are there."""
        return index in self._filled

    def abort_begun(self) -> None:
        """Drop what was begun and not completed."""
        for identity in list(self._begun):
            with suppress(StoreError):  # whoever takes the archive next drops it
                self._abort(identity)

    def send_ahead(self, index: int, chunks: Iterator[bytes]) -> str:
        """Send a member that is not verified yet; its type is guessed from its first bytes.

        An upload has its type from its beginning. Where the rest of a text says otherwise, the
        parts are thrown away and the member is read once more when the archive is verified.
        """
        probe = content_types.Probe(self._listed[index].path)
        rest = probed(chunks, probe, self._check)
        first: deque[bytes] = deque()
        for chunk in rest:
            first.append(chunk)
            if sum(map(len, first)) >= _GUESSED_FROM:
                break
        guess = probe.content_type(so_far=True)
        self.send(index, chain(drained(first), rest), guess)
        found = probe.content_type()
        if found != guess:
            with self._lock:
                upload = self._filled.pop(index)
            self._abort(upload.identity)
        return found

    def send(self, index: int, chunks: Iterator[bytes], content_type: str) -> None:
        """Send a member as the parts of an upload that ``complete`` makes visible."""
        member = self._listed[index]
        key = self._prefix + member.path
        copied = self._can_copy(member)
        identity = self._begin(key, content_type, copied=copied)
        transfer = self._copy_parts if copied else self._send_parts
        parts, size = transfer(member, chunks, key, identity)
        with self._lock:
            self._filled[index] = _Upload(identity, parts, size)

    def complete(
        self, index: int, visible: Callable[[int, Callable[[Condition], object]], bool]
    ) -> None:
        """Make a member that was sent visible, by ``visible``, unless it was there already."""
        upload = self._filled[index]
        member = self._listed[index]
        key = self._prefix + member.path
        if upload.size != member.size:
            raise Unverified(
                f"{member.path}: the parts of its upload have {upload.size} bytes, "
                f"{member.size} bytes were verified"
            )

        def write(condition: Condition) -> None:
            self._check()
            self._target.complete_upload(
                key, upload.identity, upload.parts, condition, crc=member.crc
            )

        completed = visible(index, write)
        with self._lock:
            del self._filled[index]
            if completed:
                del self._begun[upload.identity]
        if not completed:
            self._abort(upload.identity)

    def _begin(self, key: str, content_type: str, *, copied: bool) -> str:
        identity = self._target.create_upload(
            key, content_type, self._metadata, checksums=not copied
        )
        with self._lock:
            self._begun[identity] = key
        return identity

    def _abort(self, identity: str) -> None:
        self._target.abort_upload(self._begun[identity], identity)
        with self._lock:
            del self._begun[identity]

    def _can_copy(self, member: Member) -> bool:
        return (
            member.method == headers.STORED
            and self._source.store.bucket == self._target.bucket
            and self._extractor.options.copies_rightly()
        )

    def _copy_parts(
        self, member: Member, chunks: Iterable[bytes], key: str, identity: str
    ) -> tuple[list[Part], int]:
        """Have S3 copy the data while we read and verify them; the parts and their length."""
        source = self._source
        header = source.read(member.offset, min(member.end, member.offset + (140 << 10)))
        start = member.offset + member_data.read_local(member, header).data_start
        stop = start + member.compressed
        count = max(1, -(-member.compressed // _COPY_PART))
        parts = [Part("")] * count
        group = CallGroup(self._extractor.writers, count)

        def copy(number: int) -> None:
            self._check()
            begin = start + number * _COPY_PART
            try:
                parts[number] = self._target.copy_part(
                    key,
                    identity,
                    number + 1,
                    source=source.key,
                    etag=source.etag,
                    start=begin,
                    end=min(stop, begin + _COPY_PART),
                )
            except Conflict as error:
                raise Replaced(f"{source.key} is no longer {source.etag}: {error}") from error

        try:
            for number in range(count):
                group.submit(partial(copy, number))
            for _ in chunks:
                if group.error is not None:
                    break
            group.finish()
        finally:
            group.settle()
        return parts, stop - start

    def _send_parts(
        self, member: Member, chunks: Iterable[bytes], key: str, identity: str
    ) -> tuple[list[Part], int]:
        """Send the bytes; the parts and their length. S3 checks the CRC of the complete object."""
        parts: list[Part] = []
        size = 0
        part_bytes = max(
            LEAST_PART, self._extractor.options.part_bytes, -(-member.size // _MOST_PARTS)
        )
        group = CallGroup(self._extractor.writers, 4, self._extractor.budget)

        def send(number: int, body: bytearray) -> None:
            self._check()
            parts[number] = self._target.upload_part(key, identity, number + 1, body)

        try:
            filler = Filler(chunks)
            while size < member.size:
                length = min(part_bytes, member.size - size)
                group.reserve(length)
                body = filler.fill(length)
                parts.append(Part(""))
                size += len(body)
                group.submit(partial(send, len(parts) - 1, body), holding=length)
                if len(body) < length:
                    break  # ``_complete`` refuses what has another size
            filler.finish()
            group.finish()
        finally:
            group.settle()
        return parts, size
