"""The files of one archive on their way to their keys: nothing is visible before all is proved.

While the archive is proved, large members go up as the parts of multipart uploads that are
completed afterwards, and small ones stay in memory as far as it reaches. What neither holds is
read again (docs/adr/0030).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Self

from unzip.concurrency import Crew
from unzip.extract import content_types
from unzip.extract.extractor import SOURCE_TAG, Check, Extractor, Replaced, Source, probe_of
from unzip.s3.client import Absent, Condition, Conflict, Matching, Part, Store, StoreError
from unzip.s3.conditional_write import write_until_there
from unzip.zip import headers, members
from unzip.zip.central_directory import Member
from unzip.zip.headers import Buffer
from unzip.zip.kinds import Kind
from unzip.zip.members import crc32

# S3 copies a range of at least 5 MiB as a part; larger ones save requests.
_COPY_PART = 64 << 20
_LEAST_PART, _MOST_PARTS = 5 << 20, 9_000  # S3's are 5 MiB (but for the last part) and 10,000
_GUESSED_FROM = 4 << 20  # bytes of a large member that its content type is guessed from
_BATCH = 16  # small files that one thread sends one after the other


class Unproved(Exception):  # noqa: N818 - a defect of ours, seen before anybody else could
    """What was about to become visible is not the member that was proved."""


@dataclass(frozen=True, slots=True)
class _Upload:
    """A multipart upload whose parts are all there, ``size`` bytes in all."""

    identity: str
    parts: list[Part]
    size: int


class Publication:
    """Where one archive's files go. Leaving the context aborts what was not completed.

    What is in ``done`` is visible already, and is only proved.
    """

    def __init__(
        self,
        extractor: Extractor,
        source: Source,
        listed: list[Member],
        target: Store,
        prefix: str,
        *,
        check: Check,
        done: Container[int] = (),
    ) -> None:
        self._extractor = extractor
        self._source = source
        self._listed = listed
        self._target = target
        self._prefix = prefix
        self._check = check
        self._done = done
        self._metadata = {SOURCE_TAG: source.tag}
        self._lock = threading.Lock()
        self._uploads: dict[int, _Upload] = {}
        self._begun: dict[str, str] = {}  # upload's id to its key
        self._kept: dict[int, Buffer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for index in list(self._kept):
            self._forget(index)
        if error is None or isinstance(error, Exception):
            for identity in list(self._begun):
                with suppress(StoreError):  # whoever takes the archive next drops it
                    self._abort(identity)

    def take(self, index: int, chunks: Iterator[bytes]) -> str:
        """Prove a member by reading it to its end, holding or sending its bytes; its type."""
        member = self._listed[index]
        wanted = member.kind is Kind.FILE and index not in self._done
        if wanted and self._is_large(member):
            return self._send_ahead(index, chunks)
        probe = probe_of(member)
        keeps = wanted and self._extractor.kept.offer(member.size)
        body: Buffer = b""
        try:
            probed = self._probed(chunks, probe)
            if keeps:
                body = assembled(probed, member.size)
            else:
                for _ in probed:
                    pass
        except BaseException:
            if keeps:
                self._extractor.kept.give(member.size)
            raise
        if keeps:
            with self._lock:
                self._kept[index] = body
        return probe.content_type()

    def publish(
        self,
        types: list[str],
        *,
        fenced: Check,
        existing: Sequence[str],
        published: Callable[[int], None] = lambda index: None,
    ) -> None:
        """Make every file visible that is not done.

        ``existing`` has for each member the ETag of what is at its key, or "", or nothing at
        all where nothing is at any: each write is conditional on what was there, so a worker that
        lost its lease cannot overwrite its successor's files. ``fenced`` asks the ledger itself
        whether the lease is still ours.
        """
        extractor = self._extractor
        wanted = [
            index
            for index, member in enumerate(self._listed)
            if member.kind is Kind.FILE and index not in self._done
        ]
        crew = Crew(extractor.writers, extractor.options.writers * 2, extractor.budget)
        visible = partial(self._visible, fenced=fenced, existing=existing)
        # Handing every file to a thread of its own costs more than sending a small one.
        together = max(1, min(_BATCH, len(wanted) // (extractor.options.writers * 4)))

        def put(rows: list[tuple[int, Buffer]]) -> None:
            for index, body in rows:
                self._check()
                visible(index, self._put(index, body, types[index]))
                published(index)

        def put_kept(indices: list[int]) -> None:
            for index in indices:
                put([(index, self._kept[index])])
                self._forget(index)

        def complete(index: int) -> None:
            self._complete(index, visible)
            published(index)

        def work(span: range) -> None:
            batch: list[tuple[int, Buffer]] = []
            held = 0

            def send() -> None:
                nonlocal batch, held
                if batch:
                    crew.submit(partial(put, batch), holding=held)
                    batch, held = [], 0

            for index, chunks in extractor.members(self._source, self._listed, span, self._check):
                member = self._listed[index]
                if member.kind is not Kind.FILE:
                    for _ in chunks:
                        pass
                elif self._is_large(member):
                    self._upload(index, chunks, types[index])
                    complete(index)
                else:
                    if not crew.try_reserve(member.size):
                        send()  # whoever waits for memory holds none
                        crew.reserve(member.size)
                    batch.append((index, assembled(chunks, member.size)))
                    held += member.size
                    if len(batch) == together or held > _LEAST_PART:
                        send()
            send()

        kept = [index for index in wanted if index in self._kept]
        ahead = [index for index in wanted if index in self._uploads]
        rest = [i for i in wanted if i not in self._kept and i not in self._uploads]
        try:
            for index in ahead:
                crew.submit(partial(complete, index))
            for begin in range(0, len(kept), together):
                crew.submit(partial(put_kept, kept[begin : begin + together]))
            extractor.over_spans(self._listed, rest, work)
            crew.finish()
        finally:
            crew.settle()

    def _visible(
        self,
        index: int,
        write: Callable[[Condition], object],
        *,
        fenced: Check,
        existing: Sequence[str],
    ) -> bool:
        """Write until the file is there, each time over exactly what was there before.

        False: it was there already, from a call whose answer was lost.
        """
        member = self._listed[index]
        key = self._prefix + member.path
        condition: Condition = (
            Matching(existing[index]) if existing and existing[index] else Absent()
        )
        return write_until_there(
            self._target,
            key,
            write,
            condition,
            ours=lambda head: (
                head.metadata.get(SOURCE_TAG) == self._source.tag and head.size == member.size
            ),
            fenced=fenced,
        )

    def _put(self, index: int, body: Buffer, content_type: str) -> Callable[[Condition], str]:
        """How to write a file in one request; Unproved if it is not what the directory says."""
        member = self._listed[index]
        crc = crc32(body)
        if (len(body), crc) != (member.size, member.crc):
            raise Unproved(
                f"{member.path}: {len(body)} bytes of CRC {crc:08x} were to be written, "
                f"{member.size} bytes of CRC {member.crc:08x} were proved"
            )
        key = self._prefix + member.path
        return partial(self._target.put, key, body, content_type, self._metadata, crc=member.crc)

    def _is_large(self, member: Member) -> bool:
        return member.size > self._extractor.options.part_bytes

    def _forget(self, index: int) -> None:
        with self._lock:
            body = self._kept.pop(index, None)
        if body is not None:
            self._extractor.kept.give(self._listed[index].size)

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

    def _send_ahead(self, index: int, chunks: Iterator[bytes]) -> str:
        """Send a member that is not proved yet; its type is guessed from its first bytes.

        An upload has its type from its beginning. Where the rest of a text says otherwise, the
        parts are thrown away and the member is read once more when the archive is proved.
        """
        probe = content_types.Probe(self._listed[index].path)
        rest = self._probed(chunks, probe)
        first: deque[bytes] = deque()
        for chunk in rest:
            first.append(chunk)
            if sum(map(len, first)) >= _GUESSED_FROM:
                break
        guess = probe.content_type(so_far=True)
        self._upload(index, chain(_drained(first), rest), guess)
        found = probe.content_type()
        if found != guess:
            with self._lock:
                upload = self._uploads.pop(index)
            self._abort(upload.identity)
        return found

    def _probed(
        self, chunks: Iterable[bytes], probe: content_types.Probe | content_types.TargetProbe
    ) -> Iterator[bytes]:
        for chunk in chunks:
            self._check()
            probe.feed(chunk)
            yield chunk

    def _upload(self, index: int, chunks: Iterator[bytes], content_type: str) -> None:
        member = self._listed[index]
        key = self._prefix + member.path
        copied = self._can_copy(member)
        identity = self._begin(key, content_type, copied=copied)
        transfer = self._copy_parts if copied else self._send_parts
        parts, size = transfer(member, chunks, key, identity)
        with self._lock:
            self._uploads[index] = _Upload(identity, parts, size)

    def _complete(
        self, index: int, visible: Callable[[int, Callable[[Condition], object]], bool]
    ) -> None:
        upload = self._uploads[index]
        member = self._listed[index]
        key = self._prefix + member.path
        if upload.size != member.size:
            raise Unproved(
                f"{member.path}: the parts of its upload have {upload.size} bytes, "
                f"{member.size} bytes were proved"
            )

        def write(condition: Condition) -> None:
            self._check()
            self._target.complete_upload(
                key, upload.identity, upload.parts, condition, crc=member.crc
            )

        completed = visible(index, write)
        with self._lock:
            del self._uploads[index]
            if completed:
                del self._begun[upload.identity]
        if not completed:
            self._abort(upload.identity)

    def _can_copy(self, member: Member) -> bool:
        return (
            member.method == headers.STORED
            and self._source.store.bucket == self._target.bucket
            and self._extractor.options.copies_rightly()
        )

    def _copy_parts(
        self, member: Member, chunks: Iterable[bytes], key: str, identity: str
    ) -> tuple[list[Part], int]:
        """Have S3 copy the data while we read and prove them; the parts and their length."""
        source = self._source
        header = source.read(member.offset, min(member.end, member.offset + (140 << 10)))
        start = member.offset + members.read_local(member, header).data_start
        stop = start + member.compressed
        count = max(1, -(-member.compressed // _COPY_PART))
        parts = [Part("")] * count
        crew = Crew(self._extractor.writers, count)

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
                crew.submit(partial(copy, number))
            for _ in chunks:
                if crew.error is not None:
                    break
            crew.finish()
        finally:
            crew.settle()
        return parts, stop - start

    def _send_parts(
        self, member: Member, chunks: Iterable[bytes], key: str, identity: str
    ) -> tuple[list[Part], int]:
        """Send the bytes; the parts and their length. S3 checks the CRC of the whole."""
        parts: list[Part] = []
        size = 0
        part_bytes = max(
            _LEAST_PART, self._extractor.options.part_bytes, -(-member.size // _MOST_PARTS)
        )
        crew = Crew(self._extractor.writers, 4, self._extractor.budget)

        def send(number: int, body: bytearray) -> None:
            self._check()
            parts[number] = self._target.upload_part(key, identity, number + 1, body)

        try:
            filler = Filler(chunks)
            while size < member.size:
                length = min(part_bytes, member.size - size)
                crew.reserve(length)
                body = filler.fill(length)
                parts.append(Part(""))
                size += len(body)
                crew.submit(partial(send, len(parts) - 1, body), holding=length)
                if len(body) < length:
                    break  # ``_complete`` refuses what has another size
            filler.finish()
            crew.finish()
        finally:
            crew.settle()
        return parts, size


class Filler:
    """Chunks of any lengths poured into buffers of given lengths, made before they are filled."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def fill(self, length: int) -> bytearray:
        """The next ``length`` bytes, or fewer where the chunks end before."""
        body = bytearray(length)
        at = 0
        while at < length:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    del body[at:]
                    break
                self._rest = memoryview(chunk)
            count = min(length - at, len(self._rest))
            body[at : at + count] = self._rest[:count]
            self._rest = self._rest[count:]
            at += count
        return body

    def finish(self) -> None:
        """Read to the end, where the last checks are. Bytes that are left are a defect of ours."""
        if self._rest or any(self._chunks):
            raise Unproved("there are more bytes than the directory says")


def assembled(chunks: Iterator[bytes], size: int) -> Buffer:
    """All ``size`` bytes of the chunks in one buffer, without a second copy of them."""
    first = next(chunks, b"")
    if len(first) == size:
        for _ in chunks:  # the last checks are at the end
            pass
        return first
    filler = Filler(chain((first,), chunks))
    body = filler.fill(size)
    filler.finish()
    return body


def _drained(queue: deque[bytes]) -> Iterator[bytes]:
    while queue:
        yield queue.popleft()
