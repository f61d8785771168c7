"""One attempt at a job: predict, and have its end written or its next attempt queued."""

from __future__ import annotations

import asyncio
import time
from time import monotonic
from typing import Any

import orjson

from kit.http.problem import Problem
from kit.http.request_headers import request_id_of
from kit.memory.budget import Held as HeldBytes
from kit.telemetry import logs, tracing
from kit.telemetry.tracing import TraceContext
from proxy.http import propagation
from proxy.jobs import sagemaker_async, scripts
from proxy.jobs.queue import GROUP, Keys
from proxy.models.backend import Asking, ModelBackend
from proxy.models.sagemaker import SageMakerModel
from proxy.services import Services
from proxy.store.redis import script
from proxy.worker.finish import Ends
from proxy.worker.job import HeldJob, backoff, record_span

log = logs.get("proxy.worker")

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that are worth another attempt."""
BUSY = 429
"""The backend did not try it: waiting costs the job no attempt, only its deadline ends it."""


class Attempts:
    """Runs jobs."""

    def __init__(self, services: Services, keys: Keys, ends: Ends) -> None:
        self._services = services
        self._policy = services.settings.jobs
        self._keys = keys
        self._ends = ends

    async def run(self, job: HeldJob) -> None:
        """One attempt, and its end or the next one's time."""
        tracing.request_id.set(job.request_id)
        submitted = tracing.parse_traceparent(job.traceparent)
        context = (submitted or tracing.new_trace()).child()
        began = time.time_ns()
        state = "dropped"
        try:
            result = await self._predict(job, context)
        except Problem as problem:
            state = await self._failed(job, problem)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.error("job failed", job=job.identity, exc_info=error)
            state = await self._failed(
                job, Problem(500, "internal", "the worker failed; its log says why")
            )
        else:
            state = await self._succeeded(job, result)
        finally:
            if self._services.spans is not None:
                record_span(self._services.spans, job, context, submitted, began=began, state=state)

    async def _predict(self, job: HeldJob, context: TraceContext) -> bytes:
        """The job's result as JSON; its input and answers count among the bodies in memory."""
        async with self._services.bodies.room(0, "a job") as held:
            return await self._predict_within(job, context, held)

    async def _backend(self, job: HeldJob, asking: Asking) -> ModelBackend:
        """The job's backend; a model that a server may still get is asked for again later."""
        models = self._services.models
        try:
            return await models.find_for(
                job.model, job.query.encode("latin-1"), asking.carried.headers
            )
        except Problem as problem:
            if problem.status == 404 and models.discovery.servers:
                raise Problem(503, "model-unavailable", problem.detail) from None
            raise

    async def _predict_within(self, job: HeldJob, context: TraceContext, held: HeldBytes) -> bytes:
        left = job.deadline - time.time()
        if left <= 0:
            raise Problem(410, "job-expired", "the job's deadline has passed")
        asking = Asking(
            request_id_of(job.request_id.encode()),
            context.traceparent().encode(),
            monotonic() + left,
            job.arm.encode(),
            hold=held.more,
            carried=propagation.load(job.headers, job.query.encode("latin-1")),
        )
        services = self._services
        backend = await self._backend(job, asking)
        payload = job.payload
        if job.input_ref:
            payload = await services.blobs.get(job.input_ref, held.more)
        if isinstance(backend, SageMakerModel) and backend.settings.asynchronous is not None:
            document = await sagemaker_async.invoke(
                backend,
                backend.settings.asynchronous,
                job.identity,
                payload=payload,
                content_type=job.content_type,
                asking=asking,
            )
            return orjson.dumps(document)

        async def progress(share: float) -> None:
            await script(
                self._services.store.need(),
                scripts.PROGRESS,
                (self._keys.job(job.identity),),
                job.attempt,
                f"{share:.4f}",
                self._keys.events,
                job.identity,
            )

        outcome = await services.predictor.run(
            backend,
            job.content_type,
            payload,
            asking,
            owner=job.owner,
            chunk_rows=self._policy.chunk_rows,
            on_progress=progress,
        )
        return orjson.dumps({**outcome.document, "request_id": job.request_id})

    async def _succeeded(self, job: HeldJob, result: bytes) -> str:
        fields: list[Any] = ["progress", 1]
        if len(result) > self._policy.inline_bytes:
            reference = f"{self._policy.prefix}/{job.identity}/result"
            try:
                await self._services.blobs.put(reference, result, content_type="application/json")
            except Problem as problem:
                return await self._failed(job, problem)
            fields += ("result_ref", reference)
        else:
            fields += ("result", result)
        return self._ends.add(job, "succeeded", fields)

    async def _failed(self, job: HeldJob, problem: Problem) -> str:
        busy = problem.status == BUSY
        counted = job.attempt - job.uncounted
        retry = busy or (problem.status in AGAIN and counted < self._policy.max_attempts)
        wait = backoff(job.attempt, self._policy.backoff_seconds, problem.headers)
        if retry and time.time() + wait < job.deadline:
            await script(
                self._services.store.need(),
                scripts.RETRY,
                (
                    self._keys.job(job.identity),
                    self._keys.stream(job.priority),
                    self._keys.delayed,
                ),
                GROUP,
                job.entry,
                job.attempt,
                f"{time.time() + wait:.6f}",
                f"{job.priority}:{job.identity}",
                self._keys.events,
                job.identity,
                problem.detail,
                0 if busy else 1,
            )
            state = "deferred" if busy else "retried"
            self._services.metrics.jobs.add(job.model, state)
            return state
        body = problem.body(request_id=job.request_id)
        return self._ends.add(job, "failed", ["error", body, "detail", problem.detail])
