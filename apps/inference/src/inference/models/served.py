"""One version of one model while it is served."""

from __future__ import annotations

import asyncio
from typing import Self

from inference.batching.batcher import Batcher
from inference.batching.short_runs import SHORT_RUN
from inference.batching.time_slicer import TimeSlicer
from inference.models.load import Loaded, metadata
from inference.models.statistics import ModelStatistics
from inference.repository.manifest import TensorSpec
from inference.settings import InferenceSettings
from kit.http.admission import Admission
from kit.oip.non_finite import Policy


class ServedModel:
    """One version of one model, and everything a request for it needs."""

    def __init__(
        self,
        loaded: Loaded,
        stamp: str,
        statistics: ModelStatistics,
        settings: InferenceSettings,
        time_slicer: TimeSlicer,
    ) -> None:
        described, model = loaded.manifest, loaded.model
        batching = described.batching
        delay = (
            settings.max_queue_delay_ms
            if batching.max_queue_delay_ms is None
            else batching.max_queue_delay_ms
        )
        self.name = described.name
        self.version = described.version
        self.stamp = stamp
        self.manifest = described
        self.model = model
        self.prepare = loaded.prepare
        self.finish = loaded.finish
        self.statistics = statistics
        self.batched = loaded.batching.batching
        self.max_batch_size = loaded.max_batch_size
        self.inputs: dict[str, TensorSpec] = {spec.name: spec for spec in model.inputs}
        self.takes_images = loaded.prepare is not None and len(self.inputs) == 1
        self.output_names = model.output_names
        added = loaded.finish.outputs if loaded.finish is not None else ()
        self.outputs_known = frozenset((*model.output_names, *added))
        self.variable_shapes = any(size < 0 for spec in model.inputs for size in spec.shape[1:])
        # the batcher sets floor and ceiling, which are in rows
        self.admission = Admission(target=settings.target_wait_ms / 1000, floor=1, ceiling=1)
        self.batcher = Batcher(
            model,
            name=described.name,
            batching=loaded.batching.batching,
            max_batch_size=loaded.max_batch_size,
            max_queue_size=batching.max_queue_size or settings.max_queue_size,
            max_queue_delay=delay if delay == "auto" else delay / 1000,
            instances=batching.instances or settings.instances,
            observer=statistics,
            admission=self.admission,
            soon=time_slicer.run_after,
            short_run=SHORT_RUN,
            larger_short_batches=batching.max_batch_size is None
            and loaded.max_batch_size == settings.max_batch_size,
        )
        self.header_lines = (
            f"x-slipway-model: {self.name}\r\nx-slipway-model-version: {self.version}\r\n"
        ).encode("latin-1", "replace")
        self.non_finite: Policy = settings.non_finite_outputs
        self.leases = 0
        self.released = asyncio.Event()
        self.released.set()
        self.warnings = loaded.warnings
        self.metadata_document = metadata(loaded)

    def lease(self) -> Self:
        """A request is about to use this version; it stays until :meth:`release`.

        Between looking it up and this nothing may be awaited.
        """
        self.leases += 1
        if self.leases == 1:
            self.released.clear()
        return self

    def release(self) -> None:
        """The request is over."""
        self.leases -= 1
        if self.leases == 0:
            self.released.set()

    async def retire(self) -> None:
        """Let every request that uses this version finish, then let go of its threads."""
        await self.released.wait()
        await self.batcher.close()
