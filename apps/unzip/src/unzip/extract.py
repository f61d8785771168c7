"""From a zip in S3 to its files in S3, in two passes over the same pinned version.

The first pass reads, inflates and proves every member and writes nothing; the second does it
again and uploads. So nothing of a bad archive is ever visible (docs/adr/0030).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self

from unzip import content, directory, members
from unzip.crew import Budget, Crew
from unzip.directory import Buffer, Directory, Kind, Limits, Member
from unzip.store import Absent, Condition, Conflict, Matching, Missing, Store, StoreError

SOURCE_TAG = "slipway-source"
MANIFEST = "_manifest.json"
# S3 copies a range of at least 5 MiB as a part; larger ones save requests.
_COPY_PART = 64 << 20
_AHEAD = 3  # ranges of a large member that are asked for at once
_LEAST_PART, _MOST_PARTS = 5 << 20, 9_000  # S3's are 5 MiB (but for the last part) and 10,000


class Replaced(Exception):  # noqa: N818 - a fact about the archive
    """The archive is no longer the version this job began with."""


@dataclass(frozen=True, slots=True)
class Source:
    """One version of an archive: ``etag`` with its quotes, ``size`` in bytes."""

    store: Store
    key: str
    etag: str
    size: int

    def read(self, start: int, end: int) -> Buffer:
        """Bytes [start, end), or Replaced."""
        try:
            return self.store.read(self.key, start, end, self.etag)
        except (Conflict, Missing) as error:
            raise Replaced(f"{self.key} is no longer {self.etag}: {error}") from error

    @property
    def tag(self) -> str:
        """What marks the objects made from this version."""
        return self.etag.strip('"')


@dataclass(frozen=True, slots=True)
class Options:
    """How wide the work is; memory is about ``readers * (span + part) + buffer`` bytes.

    ``copies_rightly`` is asked before a stored member is copied by S3 itself.
    """

    readers: int = 3
    writers: int = 24
    span_bytes: int = 4 << 20
    part_bytes: int = 8 << 20
    buffer_bytes: int = 32 << 20
    copies_rightly: Callable[[], bool] = lambda: False


Check = Callable[[], None]
"""Raises when the work must stop: lease lost, draining, out of time."""


class Extractor:
    """The threads that archives are extracted with; one per process, used as a context."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._readers = ThreadPoolExecutor(options.readers, "reader")
        self._ahead = ThreadPoolExecutor(options.readers + _AHEAD, "ahead")
        self._writers = ThreadPoolExecutor(options.writers, "writer")
        self._budget = Budget(options.buffer_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in (self._readers, self._ahead, self._writers):
            pool.shutdown(wait=True, cancel_futures=True)

    def each(self, calls: Iterable[Callable[[], object]]) -> None:
        """Make all calls side by side; the first error is raised."""
        crew = Crew(self._writers, self.options.writers * 2)
        try:
            for call in calls:
                crew.submit(call)
            crew.finish()
        finally:
            crew.settle()

    def read_directory(self, source: Source, limits: Limits) -> Directory:
        """The archive's members, as far as the directory alone can prove them."""
        return directory.read_directory(source.size, source.read, limits, reserved=MANIFEST)

    def verify(
        self,
        source: Source,
        listed: Sequence[Member],
        *,
        check: Check,
        progress: Callable[[int], None] = lambda size: None,
    ) -> list[str]:
        """Read and prove every member; the content types of ``listed``, in its order.

        Nothing is written. Refused at the first member that is not what it is said to be.
        ``progress`` gets the bytes of each member that is done.
        """
        types = [""] * len(listed)

        def prove(span: range) -> None:
            for index, chunks in self._span(source, listed, span, check):
                member = listed[index]
                probe = None
                if member.kind is Kind.FILE and content.is_text(content.media_type(member.path)):
                    probe = content.TextProbe()
                for chunk in chunks:
                    check()
                    if probe is not None:
                        probe.feed(chunk)
                charset = probe.charset() if probe is not None else ""
                types[index] = content.content_type(member.path, charset)
                progress(member.size)

        self._over_spans(listed, range(len(listed)), prove)
        return types

    def publish(
        self,
        source: Source,
        listed: Sequence[Member],
        types: Sequence[str],
        target: Store,
        prefix: str,
        *,
        check: Check,
        fenced: Check,
        existing: Mapping[str, str],
        skip: Collection[int] = (),
        published: Callable[[int], None] = lambda index: None,
    ) -> None:
        """Upload every file of ``listed`` to ``prefix`` that is not in ``skip``.

        ``existing`` maps keys below ``prefix`` to their ETags: each write is conditional on what
        was there, so a worker that lost its lease cannot overwrite its successor's files.
        ``fenced`` asks the ledger itself whether the lease is still ours.
        """
        crew = Crew(self._writers, self.options.writers * 2, self._budget)
        metadata = {SOURCE_TAG: source.tag}

        def settle(key: str, size: int) -> Condition | None:
            """After a Conflict: None when the file is there already, else the next condition."""
            fenced()
            try:
                head = target.head(key)
            except Missing:
                return Absent()
            if head.metadata.get(SOURCE_TAG) == source.tag and head.size == size:
                return None
            return Matching(head.etag)

        def put(index: int, body: bytes) -> None:
            check()
            key = prefix + listed[index].path
            condition: Condition = _condition(existing, key)
            for _ in range(5):
                try:
                    target.put(key, body, types[index], metadata, condition)
                    break
                except Conflict:
                    condition = settle(key, len(body))
                    if condition is None:
                        break
            else:
                raise StoreError(f"{key} is written by somebody else again and again")
            published(index)

        def upload(index: int, chunks: Iterator[bytes]) -> None:
            member = listed[index]
            key = prefix + member.path
            identity = target.create_upload(key, types[index], metadata)
            try:
                if self._can_copy(source, member, target):
                    parts = self._copy_parts(
                        source, member, target, key=key, identity=identity, check=check
                    )
                else:
                    parts = self._send_parts(
                        member, chunks, target, key=key, identity=identity, check=check
                    )
                condition: Condition = _condition(existing, key)
                for _ in range(5):
                    check()
                    try:
                        target.complete_upload(key, identity, parts, condition)
                        break
                    except (Conflict, Missing) as error:
                        # Missing: our own first answer was lost, or a successor aborted it.
                        condition = settle(key, member.size)
                        if condition is None:
                            target.abort_upload(key, identity)
                            break
                        if isinstance(error, Missing):
                            raise StoreError(f"the upload of {key} is gone") from error
                else:
                    raise StoreError(f"{key} is written by somebody else again and again")
            except Exception:
                target.abort_upload(key, identity)
                raise
            published(index)

        def work(span: range) -> None:
            for index, chunks in self._span(source, listed, span, check):
                if listed[index].kind is not Kind.FILE:
                    for _ in chunks:
                        pass
                elif listed[index].size > self.options.part_bytes:
                    upload(index, chunks)
                else:
                    body = b"".join(chunks)
                    crew.submit(partial(put, index, body), holding=len(body))

        wanted = [
            index
            for index, member in enumerate(listed)
            if member.kind is Kind.FILE and index not in skip
        ]
        try:
            self._over_spans(listed, wanted, work)
            crew.finish()
        finally:
            crew.settle()

    def _can_copy(self, source: Source, member: Member, target: Store) -> bool:
        return (
            member.method == directory.STORED
            and source.store.bucket == target.bucket
            and self.options.copies_rightly()
        )

    def _copy_parts(
        self,
        source: Source,
        member: Member,
        target: Store,
        *,
        key: str,
        identity: str,
        check: Check,
    ) -> list[str]:
        header = source.read(member.offset, min(member.end, member.offset + (140 << 10)))
        start = member.offset + members.data_start(member, header)
        stop = start + member.compressed
        count = max(1, -(-member.compressed // _COPY_PART))
        parts = [""] * count
        crew = Crew(self._writers, 8)

        def copy(number: int) -> None:
            check()
            begin = start + number * _COPY_PART
            try:
                parts[number] = target.copy_part(
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
            crew.finish()
        finally:
            crew.settle()
        return parts

    def _send_parts(
        self,
        member: Member,
        chunks: Iterator[bytes],
        target: Store,
        *,
        key: str,
        identity: str,
        check: Check,
    ) -> list[str]:
        parts: list[str] = []
        least = max(_LEAST_PART, -(-member.size // _MOST_PARTS))
        crew = Crew(self._writers, 4, self._budget)

        def send(number: int, body: bytes) -> None:
            check()
            parts[number] = target.upload_part(key, identity, number + 1, body)

        try:
            for body in parted(chunks, least):
                parts.append("")
                crew.submit(partial(send, len(parts) - 1, body), holding=len(body))
            crew.finish()
        finally:
            crew.settle()
        return parts

    def _over_spans(
        self, listed: Sequence[Member], wanted: Sequence[int], work: Callable[[range], None]
    ) -> None:
        crew = Crew(self._readers, self.options.readers * 2)
        try:
            for span in spans(listed, wanted, self.options.span_bytes, self.options.part_bytes):
                crew.submit(partial(work, span))
            crew.finish()
        finally:
            crew.settle()

    def _span(
        self, source: Source, listed: Sequence[Member], span: range, check: Check
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Each member of a span with its proved bytes; small ones come in one chunk."""
        first, last = listed[span[0]], listed[span[-1]]
        check()
        if len(span) == 1 and not self._is_small(first):
            yield (
                span[0],
                members.unpack(
                    first,
                    self._pieces(source, first),
                    output=max(_LEAST_PART, self.options.part_bytes),
                ),
            )
            return
        base = first.offset
        data = memoryview(source.read(base, last.end))
        for index in span:
            member = listed[index]
            extent = data[member.offset - base : member.end - base]
            start = members.data_start(member, extent)
            stop = start + member.compressed
            members.check_tail(member, extent[stop:])
            yield index, iter((members.unpack_whole(member, extent[start:stop]),))

    def _is_small(self, member: Member) -> bool:
        return _is_small(member, self.options.span_bytes, self.options.part_bytes)

    def _pieces(self, source: Source, member: Member) -> Iterator[Buffer]:
        """A large member's compressed bytes, the next ranges on their way while one is used."""
        step = self.options.span_bytes
        data_end = member.offset  # known once the header is read
        tail = b""
        starts = iter(range(member.offset, member.end, step))
        ahead: deque[tuple[int, Future[Buffer]]] = deque()

        def ask(count: int) -> None:
            for at in islice(starts, count):
                future = self._ahead.submit(source.read, at, min(member.end, at + step))
                ahead.append((at, future))

        try:
            ask(_AHEAD)
            while ahead:
                at, future = ahead.popleft()
                piece = memoryview(future.result())
                ask(1)
                if at == member.offset:
                    start = members.data_start(member, piece)
                    data_end += start + member.compressed
                    piece, at = piece[start:], at + start
                within = max(0, min(len(piece), data_end - at))
                tail += bytes(piece[within : within + 64])
                if within:
                    yield piece[:within]
        finally:
            for _, future in ahead:
                future.cancel()
        if member.end - data_end > len(tail):
            tail += bytes(1)  # more than any descriptor has
        members.check_tail(member, tail)


def _is_small(member: Member, span_bytes: int, part_bytes: int) -> bool:
    return member.end - member.offset <= span_bytes and member.size <= part_bytes


def spans(
    listed: Sequence[Member], wanted: Sequence[int], span_bytes: int, part_bytes: int
) -> Iterator[range]:
    """``wanted`` members (ascending) in runs that one ranged GET of ``span_bytes`` covers.

    A member that is too large for that comes alone.
    """
    begin: int | None = None
    previous = -1
    for index in wanted:
        member = listed[index]
        small = _is_small(member, span_bytes, part_bytes)
        if begin is not None and (
            not small or index != previous + 1 or member.end - listed[begin].offset > span_bytes
        ):
            yield range(begin, previous + 1)
            begin = None
        if not small:
            yield range(index, index + 1)
        elif begin is None:
            begin = index
        previous = index
    if begin is not None:
        yield range(begin, previous + 1)


def parted(chunks: Iterable[bytes], least: int) -> Iterator[bytes]:
    """The same bytes in parts of at least ``least``, but the last one.

    Parts need not be equal, so a chunk that is large enough goes as it is, without a copy.
    """
    held: list[bytes] = []
    length = 0
    for chunk in chunks:
        held.append(chunk)
        length += len(chunk)
        if length >= least:
            yield held[0] if len(held) == 1 else b"".join(held)
            held.clear()
            length = 0
    if length:
        yield b"".join(held)


def _condition(existing: Mapping[str, str], key: str) -> Condition:
    return Matching(existing[key]) if key in existing else Absent()


class RangeSet:
    """Numbers that are done, kept as the ranges they form; thread-safe."""

    def __init__(self, ranges: Sequence[Sequence[int]] = ()) -> None:
        self._done = {n for start, end in ranges for n in range(start, end)}
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """``number`` is done."""
        with self._lock:
            self._done.add(number)

    def __contains__(self, number: object) -> bool:
        return number in self._done

    def __len__(self) -> int:
        return len(self._done)

    def __iter__(self) -> Iterator[int]:
        with self._lock:
            return iter(sorted(self._done))

    def ranges(self) -> list[tuple[int, int]]:
        """The same as ascending [start, end) pairs."""
        found: list[tuple[int, int]] = []
        for number in self:
            if found and found[-1][1] == number:
                found[-1] = (found[-1][0], number + 1)
            else:
                found.append((number, number + 1))
        return found
