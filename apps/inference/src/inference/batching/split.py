"""A request that is larger than a batch: run in pieces, and put together again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from inference.batching.item import Item


class Split:
    """A request in pieces no larger than a batch, put together again when all are done."""

    def __init__(self, item: Item, size: int, cancel: Callable[[Item], None]) -> None:
        self._item = item
        self._cancel = cancel
        self.parts = [
            Item(
                {name: values[at : at + size] for name, values in item.feeds.items()},
                min(size, item.rows - at),
                item.outputs,
                self._done,
                key=item.key,
                deadline=item.deadline,
            )
            for at in range(0, item.rows, size)
        ]
        self._left = len(self.parts)

    def _done(self, part: Item) -> None:
        item = self._item
        if item.settled:
            return
        self._left -= 1
        if part.error is None and self._left:
            return
        item.error = part.error
        item.started = self.parts[0].started
        item.finished = part.finished
        if part.error is None:
            item.results = [
                np.concatenate(pieces)
                for pieces in zip(*(other.results for other in self.parts), strict=True)
            ]
        item.settled = True
        for other in self.parts:
            self._cancel(other)
        item.done(item)
