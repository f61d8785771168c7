"""An archive's members out of S3: fetched by ranges of one pinned version, inflated, verified.

Nothing of a bad archive is ever visible: everything is verified before the first file is
(docs/adr/0030).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self

from unzip.concurrency import Budget, CallGroup
from unzip.extract import content_types
from unzip.extract.options import AHEAD, Options
from unzip.extract.source import MANIFEST, Source
from unzip.refusals import Reason, Refused
from unzip.zip import central_directory, member_data
from unzip.zip.headers import Buffer
from unzip.zip.kinds import Kind
from unzip.zip.limits import Limits
from unzip.zip.member import Directory, Member

Check = Callable[[], None]
"""Raises when the work must stop: lease lost, draining, out of time."""

Take = Callable[[int, Iterator[bytes]], str]
"""Gets a member's index and bytes, verified once read to their end; returns its content type."""


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
        group = CallGroup(self.writers, self.options.writers * 2)
        try:
            for call in calls:
                group.submit(call)
            group.finish()
        finally:
            group.settle()

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
        """The archive's members, as far as the directory alone can verify them.

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
        """Read and verify every member; the content types of ``listed``, in its order.

        A symbolic link's is its target.

        Refused at the first member that is not what it is said to be. ``take`` gets each
        member's index and bytes and returns its content type; it has to read them to their end.
        ``progress`` gets the bytes of each member that is done.
        """
        types = [""] * len(listed)

        def verify_span(span: range) -> None:
            for index, chunks in self.members(source, listed, span, check):
                if take is not None:
                    types[index] = take(index, chunks)
                else:
                    probe = probe_of(listed[index])
                    for _ in probed(chunks, probe, check):
                        pass
                    types[index] = probe.content_type()
                progress(listed[index].size)

        self.over_spans(listed, range(len(listed)), verify_span)
        return types

    def over_spans(
        self, listed: Sequence[Member], wanted: Sequence[int], work: Callable[[range], None]
    ) -> None:
        """Have ``work`` done for the ``wanted`` members, span by span, side by side."""
        group = CallGroup(self._readers, self.options.readers * 2)
        try:
            for span in spans(listed, wanted, self.options.span_bytes, self.options.part_bytes):
                group.submit(partial(work, span))
            group.finish()
        finally:
            group.settle()

    def members(
        self, source: Source, listed: Sequence[Member], span: range, check: Check
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Each member of a span with its verified bytes; small ones come in one chunk.

        Nothing is decompressed before the chunks are asked for.
        """
        first, last = listed[span[0]], listed[span[-1]]
        check()
        if len(span) == 1 and not self._is_small(first):
            yield (
                span[0],
                member_data.unpack(first, self._pieces(source, first)),
            )
            return
        base = first.offset
        data = memoryview(source.read(base, last.end))
        for index in span:
            member = listed[index]
            extent = data[member.offset - base : member.end - base]
            start, flags = member_data.read_local(member, extent)
            stop = start + member.compressed
            member_data.check_tail(member, extent[stop:], flags)
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
                    start, flags = member_data.read_local(member, piece)
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
        member_data.check_tail(member, tail, flags)


def _unpacked(member: Member, data: Buffer) -> Iterator[bytes]:
    yield member_data.unpack_complete(member, data)


def probe_of(member: Member) -> content_types.Probe | content_types.TargetProbe:
    """What learns from a member's bytes what the manifest says of them."""
    if member.kind is Kind.SYMBOLIC_LINK:
        return content_types.TargetProbe()
    return content_types.Probe(member.path)


def probed(
    chunks: Iterable[bytes], probe: content_types.Probe | content_types.TargetProbe, check: Check
) -> Iterator[bytes]:
    """The chunks, each shown to ``probe`` after ``check``."""
    for chunk in chunks:
        check()
        probe.feed(chunk)
        yield chunk


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
