"""Runs a model before it is served, so that its first caller does not wait for that."""

from __future__ import annotations

import numpy as np

from inference.errors import InferenceError, ModelError, RunTooLarge
from inference.models.onnx_model import OnnxModel
from inference.repository.manifest import Manifest
from inference.settings import InferenceSettings
from kit.oip.tensors import Array


def warm_up(
    model: OnnxModel,
    described: Manifest,
    samples: list[dict[str, Array]],
    *,
    batching: bool,
    settings: InferenceSettings,
) -> tuple[int, list[str]]:
    """Run the model as it will be run, so that its first caller does not wait for that.

    With samples it must answer them, else ModelError. Without any the inputs are made up, and
    what is wrong with those says nothing of the model: then the warnings say so. Gives the rows
    of the largest batch, which is as large as the memory for runs allows, and the warnings.
    """
    for number, sample in enumerate(samples):
        for _ in range(settings.warmup_runs):
            try:
                model.run(None, sample)
            except InferenceError as error:
                raise ModelError(f"model.json: samples[{number}]: {error.message}") from None
    largest = described.batching.max_batch_size or settings.max_batch_size
    sizes = [largest] if samples else [1, largest]
    warnings: list[str] = []
    for rows in sizes if batching else sizes[:-1]:
        try:
            fits = _warm_rows(model, samples, rows, runs=settings.warmup_runs)
        except InferenceError as error:
            warnings.append(
                f"it was not warmed up: {rows} made-up rows fail ({error.message}); put "
                "samples into model.json"
            )
            break
        if fits < rows:
            warnings.append(
                f"its batches are of at most {fits} rows: {rows} need more memory than its runs "
                "may take (run_memory_bytes)"
            )
            largest = fits
    return largest, warnings


def _warm_rows(model: OnnxModel, samples: list[dict[str, Array]], rows: int, *, runs: int) -> int:
    """Run so many rows, or half as many until their memory is there; gives how many it were."""
    while True:
        feeds = (
            {name: np.repeat(values[:1], rows, axis=0) for name, values in samples[0].items()}
            if samples
            else model.sample(rows)
        )
        try:
            for _ in range(runs):
                model.run(None, feeds)
        except RunTooLarge:
            if rows == 1:
                raise
            rows //= 2
        else:
            return rows
