"""Chunks of bytes poured into buffers of given lengths."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from unzip.zip.headers import Buffer


class Unverified(Exception):  # noqa: N818 - a defect of ours, seen before anybody else could
    """What was about to become visible is not the member that was verified."""


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
            raise Unverified("there are more bytes than the directory says")


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


def drained(queue: deque[bytes]) -> Iterator[bytes]:
    """What is in the queue, each chunk forgotten as soon as it is handed out."""
    while queue:
        yield queue.popleft()
