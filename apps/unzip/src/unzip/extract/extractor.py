"""An archive's members out of S3: fetched by ranges of one pinned version, inflated, proved.

Nothing of a bad archive is ever visible: everything is proved before the first file is
(docs/adr/0030).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self

from unzip.concurrency import Budget, Crew
from unzip.extract import content_types
from unzip.refusals import Reason, Refused
from unzip.s3.client import Conflict, Missing, Store
from unzip.zip import central_directory, members
from unzip.zip.central_directory import Directory, Limits, Member
from unzip.zip.headers import Buffer
from unzip.zip.kinds import Kind

SOURCE_TAG = "slipway-source"
MANIFEST = "_manifest.json"
AHEAD = 3  # ranges of a large member that are asked for at once


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
    """How wide the work is; ``memory.most_bytes`` says how much memory that takes.

    With ``signing_block`` an Android package's block of signatures is accepted.
    Names that do not say theirs are in one of ``name_charsets``; without any, evidence decides.
    ``copies_rightly`` is asked before a stored member is copied by S3 itself.
    """

    readers: int = 3
    writers: int = 24
    span_bytes: int = 4 << 20
    part_bytes: int = 8 << 20
    buffer_bytes: int = 32 << 20
    keep_bytes: int = 48 << 20
    directory_bytes: int = 1 << 30
    signing_block: bool = False
    name_charsets: tuple[str, ...] = ()
    copies_rightly: Callable[[], bool] = lambda: False


Check = Callable[[], None]
"""Raises when the work must stop: lease lost, draining, out of time."""

Take = Callable[[int, Iterator[bytes]], str]
"""Gets a member's index and bytes, proved once read to their end; returns its content type."""


class Extractor:
    """The threads that archives are extracted with; one per process, used as a context."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._readers = ThreadPoolExecutor(options.readers, "reader")
        self._ahead = ThreadPoolExecutor(options.readers + AHEAD, "ahead")
        self.writers = ThreadPoolExecutor(options.writers, "writer")
        self.budget = Budget(max(options.buffer_bytes, options.part_bytes))
        self.kept = Budget(options.keep_bytes)
        self._directories = Budget(options.directory_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in (self._readers, self._ahead, self.writers):
            pool.shutdown(wait=True, cancel_futures=True)

    def each(self, calls: Iterable[Callable[[], object]]) -> None:
        """Make all calls side by side; the first error is raised."""
        crew = Crew(self.writers, self.options.writers * 2)
        try:
            for call in calls:
                crew.submit(call)
            crew.finish()
        finally:
            crew.settle()

    @contextmanager
    def directory(self, source: Source, limits: Limits) -> Iterator[Directory]:
        """The archive's members, whose memory is accounted for as long as the block runs.

        Waits while the other archives' directories leave no room; Refused where there never is.
        """
        most = self.options.directory_bytes
        held = 0

        def reserve(count: int) -> None:
            nonlocal held
            if count > most:
                raise Refused(
                    Reason.DIRECTORY_TOO_LARGE,
                    f"the directory may take {-(-count >> 20)} MiB of memory, {most >> 20} MiB are "
                    "there for it: raise the container's memory limit and retry",
                )
            self._directories.take(count)
            held = count

        try:
            yield self.read_directory(source, limits, reserve)
        finally:
            self._directories.give(held)

    def read_directory(
        self,
        source: Source,
        limits: Limits,
        reserve: Callable[[int], None] = lambda count: None,
    ) -> Directory:
        """The archive's members, as far as the directory alone can prove them.

        ``reserve`` is called with the bytes of memory that it may take, before it is read.
        """
        return central_directory.read_directory(
            source.size,
            source.read,
            limits,
            reserved=MANIFEST,
            reserve=reserve,
            signing_block=self.options.signing_block,
            name_charsets=self.options.name_charsets,
        )

    def verify(
        self,
        source: Source,
        listed: Sequence[Member],
        *,
        check: Check,
        take: Take | None = None,
        progress: Callable[[int], None] = lambda size: None,
    ) -> list[str]:
        """Read and prove every member; the content types of ``listed``, in its order.

        A symbolic link's is its target.

        Refused at the first member that is not what it is said to be. ``take`` gets each
        member's index and bytes and returns its content type; it has to read them to their end.
        ``progress`` gets the bytes of each member that is done.
        """
        types = [""] * len(listed)

        def prove(span: range) -> None:
            for index, chunks in self.members(source, listed, span, check):
                if take is not None:
                    types[index] = take(index, chunks)
                else:
                    probe = probe_of(listed[index])
                    for chunk in chunks:
                        check()
                        probe.feed(chunk)
                    types[index] = probe.content_type()
                progress(listed[index].size)

        self.over_spans(listed, range(len(listed)), prove)
        return types

    def over_spans(
        self, listed: Sequence[Member], wanted: Sequence[int], work: Callable[[range], None]
    ) -> None:
        """Have ``work`` done for the ``wanted`` members, span by span, side by side."""
        crew = Crew(self._readers, self.options.readers * 2)
        try:
            for span in spans(listed, wanted, self.options.span_bytes, self.options.part_bytes):
                crew.submit(partial(work, span))
            crew.finish()
        finally:
            crew.settle()

    def members(
        self, source: Source, listed: Sequence[Member], span: range, check: Check
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Each member of a span with its proved bytes; small ones come in one chunk.

        Nothing is decompressed before the chunks are asked for.
        """
        first, last = listed[span[0]], listed[span[-1]]
        check()
        if len(span) == 1 and not self._is_small(first):
            yield (
                span[0],
                members.unpack(first, self._pieces(source, first)),
            )
            return
        base = first.offset
        data = memoryview(source.read(base, last.end))
        for index in span:
            member = listed[index]
            extent = data[member.offset - base : member.end - base]
            start, flags = members.read_local(member, extent)
            stop = start + member.compressed
            members.check_tail(member, extent[stop:], flags)
            yield index, _unpacked(member, extent[start:stop])

    def _is_small(self, member: Member) -> bool:
        return _is_small(member, self.options.span_bytes, self.options.part_bytes)

    def _pieces(self, source: Source, member: Member) -> Iterator[Buffer]:
        """A large member's compressed bytes, the next ranges on their way while one is used."""
        step = self.options.span_bytes
        data_end = member.offset  # known once the header is read
        flags = member.flags
        tail = b""
        starts = iter(range(member.offset, member.end, step))
        ahead: deque[tuple[int, Future[Buffer]]] = deque()

        def ask(count: int) -> None:
            for at in islice(starts, count):
                future = self._ahead.submit(source.read, at, min(member.end, at + step))
                ahead.append((at, future))

        try:
            ask(AHEAD)
            while ahead:
                at, future = ahead.popleft()
                piece = memoryview(future.result())
                ask(1)
                if at == member.offset:
                    start, flags = members.read_local(member, piece)
                    data_end += start + member.compressed
                    piece, at = piece[start:], at + start
                within = max(0, min(len(piece), data_end - at))
                tail += bytes(piece[within : within + 64])
                if within:
                    yield piece[:within]
        finally:
            # Those under way hold memory, which is this reader's, until they end.
            wait([future for _, future in ahead if not future.cancel()])
        if member.end - data_end > len(tail):
            tail += bytes(1)  # more than any descriptor has
        members.check_tail(member, tail, flags)


def _unpacked(member: Member, data: Buffer) -> Iterator[bytes]:
    yield members.unpack_whole(member, data)


def probe_of(member: Member) -> content_types.Probe | content_types.TargetProbe:
    """What learns from a member's bytes what the manifest says of them."""
    if member.kind is Kind.SYMBOLIC_LINK:
        return content_types.TargetProbe()
    return content_types.Probe(member.path)


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


class RangeSet:
    """Numbers that are done, kept as a byte for each up to the largest; thread-safe."""

    def __init__(self, ranges: Sequence[Sequence[int]] = ()) -> None:
        self._done = bytearray()
        self._lock = threading.Lock()
        for start, end in ranges:
            for number in range(start, end):
                self.add(number)

    def add(self, number: int) -> None:
        """``number`` is done."""
        with self._lock:
            self._done.extend(bytes(max(0, number + 1 - len(self._done))))
            self._done[number] = 1

    def __contains__(self, number: object) -> bool:
        done = self._done
        return isinstance(number, int) and number < len(done) and bool(done[number])

    def __len__(self) -> int:
        return self._done.count(1)

    def __iter__(self) -> Iterator[int]:
        with self._lock:
            done = bytes(self._done)
        return (number for number, is_done in enumerate(done) if is_done)

    def ranges(self) -> list[tuple[int, int]]:
        """The same as ascending [start, end) pairs."""
        found: list[tuple[int, int]] = []
        for number in self:
            if found and found[-1][1] == number:
                found[-1] = (found[-1][0], number + 1)
            else:
                found.append((number, number + 1))
        return found
