"""A set of numbers that is written down as ranges."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence


class NumberSet:
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
        return isinstance(number, int) and 0 <= number < len(done) and bool(done[number])

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
