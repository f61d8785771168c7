"""The files of one archive on their way to their keys: nothing is visible before all is verified.

While the archive is verified, large members go up as the parts of multipart uploads that are
completed afterwards, and small ones stay in memory as far as it reaches. What neither holds is
read again (docs/adr/0030).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from unzip.concurrency import CallGroup
from unzip.extract.buffers import Unverified, assembled
from unzip.extract.extractor import Check, Extractor, probe_of, probed
from unzip.extract.source import SOURCE_TAG, Source
from unzip.extract.uploads import LEAST_PART, Uploads
from unzip.s3.conditional_write import write_until_there
from unzip.s3.types import Absent, Condition, Matching, Store
from unzip.zip.headers import Buffer
from unzip.zip.kinds import Kind
from unzip.zip.member import Member
from unzip.zip.member_data import crc32

_BATCH = 16  # small files that one thread sends one after the other


class Publication:
    """Where one archive's files go. Leaving the context aborts what was not completed.

    What is in ``done`` is visible already, and is only verified.
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
        self._uploads = Uploads(extractor, source, listed, target, prefix, check=check)
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
            self._uploads.abort_begun()

    def take(self, index: int, chunks: Iterator[bytes]) -> str:
        """Verify a member by reading it to its end, holding or sending its bytes; its type."""
        member = self._listed[index]
        wanted = member.kind is Kind.FILE and index not in self._done
        if wanted and self._is_large(member):
            return self._uploads.send_ahead(index, chunks)
        probe = probe_of(member)
        keeps = wanted and self._extractor.kept.offer(member.size)
        body: Buffer = b""
        try:
            verified = probed(chunks, probe, self._check)
            if keeps:
                body = assembled(verified, member.size)
            else:
                for _ in verified:
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
        group = CallGroup(extractor.writers, extractor.options.writers * 2, extractor.budget)
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
            self._uploads.complete(index, visible)
            published(index)

        def work(span: range) -> None:
            batch: list[tuple[int, Buffer]] = []
            held = 0

            def send() -> None:
                nonlocal batch, held
                if batch:
                    group.submit(partial(put, batch), holding=held)
                    batch, held = [], 0

            for index, chunks in extractor.members(self._source, self._listed, span, self._check):
                member = self._listed[index]
                if member.kind is not Kind.FILE:
                    for _ in chunks:
                        pass
                elif self._is_large(member):
                    self._uploads.send(index, chunks, types[index])
                    complete(index)
                else:
                    if not group.try_reserve(member.size):
                        send()  # whoever waits for memory holds none
                        group.reserve(member.size)
                    batch.append((index, assembled(chunks, member.size)))
                    held += member.size
                    if len(batch) == together or held > LEAST_PART:
                        send()
            send()

        kept = [index for index in wanted if index in self._kept]
        ahead = [index for index in wanted if index in self._uploads]
        rest = [i for i in wanted if i not in self._kept and i not in self._uploads]
        try:
            for index in ahead:
                group.submit(partial(complete, index))
            for begin in range(0, len(kept), together):
                group.submit(partial(put_kept, kept[begin : begin + together]))
            extractor.over_spans(self._listed, rest, work)
            group.finish()
        finally:
            group.settle()

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
        """How to write a file in one request; Unverified if it is not what the directory says."""
        member = self._listed[index]
        crc = crc32(body)
        if (len(body), crc) != (member.size, member.crc):
            raise Unverified(
                f"{member.path}: {len(body)} bytes of CRC {crc:08x} were to be written, "
                f"{member.size} bytes of CRC {member.crc:08x} were verified"
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
