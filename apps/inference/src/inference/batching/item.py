"""A request in the queue of a model."""

from __future__ import annotations

import math
from collections.abc import Callable

from inference.errors import InferenceError
from kit.oip.tensors import Array

FOREVER = math.inf


class Item:
    """A request in the batcher. ``done`` is called once, on the loop, with it.

    ``outputs`` are the names wanted, ``results`` the arrays in that order once it is done
    without an ``error``. Times are of ``time.monotonic``.
    """

    __slots__ = (
        "arrived", "deadline", "done", "enqueued", "error", "feeds", "finished", "is_part", "key",
        "outputs", "parts", "results", "rows", "settled", "started",
    )  # fmt: skip

    def __init__(
        self,
        feeds: dict[str, Array],
        rows: int,
        outputs: tuple[str, ...],
        done: Callable[[Item], None],
        *,
        key: object = None,
        deadline: float = FOREVER,
        arrived: float = 0.0,
    ) -> None:
        """``arrived`` is when the request was there, before it was parsed; 0 for just now."""
        self.feeds = feeds
        self.rows = rows
        self.key = key
        self.outputs = outputs
        self.deadline = deadline
        self.arrived = arrived
        self.done = done
        self.results: list[Array] = []
        self.error: InferenceError | None = None
        self.settled = False
        self.parts: list[Item] = []
        self.is_part = False
        self.enqueued = 0.0
        self.started = 0.0
        self.finished = 0.0
