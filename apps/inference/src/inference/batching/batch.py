"""A batch: requests that are run together, and in halves where that fails."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from inference.batching.item import Item
from inference.errors import InferenceError, ModelFailed
from kit.oip.tensors import Array


class Runner(Protocol):
    """What the batcher runs: named arrays in, arrays in the order of ``outputs`` out."""

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]: ...


class Batch:
    __slots__ = ("cpu", "finished", "items", "rows", "started")

    def __init__(self, items: list[Item], rows: int) -> None:
        self.items = items
        self.rows = rows
        self.started = 0.0
        self.finished = 0.0
        self.cpu = 0.0

    def run(self, runner: Runner) -> None:
        """Run it in this thread, and measure it."""
        self.started = time.monotonic()
        cpu = time.thread_time()
        run_items(runner, self.items)
        self.cpu = time.thread_time() - cpu
        self.finished = time.monotonic()


def run_items(runner: Runner, items: Sequence[Item]) -> None:
    """Run requests as one batch and give each its rows; failing that, in halves."""
    try:
        if len(items) == 1:
            item = items[0]
            item.results = runner.run(item.outputs, item.feeds)
            return
        _run_together(runner, items)
    except InferenceError as error:
        _run_halves(runner, items, error)
    except Exception as error:  # nothing may kill the thread that serves this model
        _run_halves(runner, items, ModelFailed(f"the model failed: {error}"))


def _run_together(runner: Runner, items: Sequence[Item]) -> None:
    first = items[0]
    names = first.outputs
    if any(item.outputs != names for item in items):
        names = tuple(dict.fromkeys(name for item in items for name in item.outputs))
    feeds = {name: np.concatenate([item.feeds[name] for item in items]) for name in first.feeds}
    outputs = runner.run(names, feeds)
    total = sum(item.rows for item in items)
    if any(values.shape[:1] != (total,) for values in outputs):
        raise ModelFailed(f"the model gave another number of rows than the {total} it was given")
    at = 0
    for item in items:
        end = at + item.rows
        if item.outputs == names:
            item.results = [values[at:end] for values in outputs]
        else:
            item.results = [outputs[names.index(name)][at:end] for name in item.outputs]
        at = end


def _run_halves(runner: Runner, items: Sequence[Item], error: InferenceError) -> None:
    if len(items) == 1:
        items[0].error = error
        return
    middle = len(items) // 2
    run_items(runner, items[:middle])
    run_items(runner, items[middle:])
