"""Many callers of the real server at the same time, compared with one caller."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from kit.oip import datatypes
from kit.oip.tensors import to_json
from tests.inference.conftest import Gate, Running, tensor, until


def sent(feeds: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The inputs of one request in the protocol's JSON."""
    return [
        tensor(
            name, datatypes.of_array(values.dtype) or "", list(values.shape),
            np.asarray(to_json(values)).ravel().tolist(),
        )
        for name, values in feeds.items()
    ]  # fmt: skip


async def answers_alike(running: Running, name: str, asked: list[dict[str, np.ndarray]]) -> int:
    """Ask for all rows at the same time; the rows of the largest run.

    AssertionError where an answer is not what the model gives for that request alone. The first
    run is held until every request is there, so that the rest may be run together.
    """
    served = running.state.registry.get(name)
    model = served.model
    alone = [model.run(None, feeds) for feeds in asked]
    gate = Gate()
    sizes: list[int] = []

    def measured(outputs: Any, feeds: Any) -> Any:
        sizes.append(len(next(iter(feeds.values()))))
        return held(outputs, feeds)

    held = gate.around(model.run)
    served.batcher._runner = _Measured(measured)
    tasks = [asyncio.create_task(running.infer(name, *sent(feeds))) for feeds in asked]
    batcher = served.batcher
    rows = sum(len(next(iter(feeds.values()))) for feeds in asked)
    try:
        await until(
            lambda: (
                batcher.queued_rows + sum(b.rows for b in batcher._running) == rows
                or any(task.done() for task in tasks)
            )
        )
    finally:
        gate.opened.set()
        answers = await asyncio.gather(*tasks)
    for number, (answer, expected) in enumerate(zip(answers, alone, strict=True)):
        assert answer.status_code == 200, answer.text
        given = {output["name"]: output for output in answer.json()["outputs"]}
        for output, wanted in zip(model.output_names, expected, strict=True):
            assert given[output]["shape"] == list(wanted.shape)
            data = given[output]["data"]
            if wanted.dtype.kind == "f":
                got = np.array(data, float)
                assert np.allclose(got, wanted.ravel(), rtol=1e-4, atol=1e-5), (number, output)
            else:
                assert list(data) == np.asarray(to_json(wanted)).ravel().tolist(), (number, output)
    return max(sizes)


class _Measured:
    def __init__(self, run: Any) -> None:
        self.run = run
