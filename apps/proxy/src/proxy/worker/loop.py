"""The job worker: takes jobs from the streams, predicts, writes the ends.

At least once: a job whose worker died is queued again after its lease, to be run alone. Its
result is written once: the attempt's number is the fence, and whoever comes late finds it changed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import orjson
import redis.asyncio as redis
from redis.exceptions import RedisError

from kit.http.problem import Problem
from kit.http.request_headers import request_id_of
from kit.memory.budget import Held
from kit.telemetry import logs, tracing
from kit.telemetry.spans import Spans
from kit.telemetry.tracing import TraceContext
from proxy.http import propagation
from proxy.jobs import sagemaker_async, scripts
from proxy.jobs.callbacks import Teller
from proxy.jobs.lost import died_alone
from proxy.jobs.queue import ALONE, GROUP, PRIORITIES, QUEUES, Keys, document, ensure_groups, pause
from proxy.models.backend import Asking, ModelBackend
from proxy.models.sagemaker import SageMakerModel
from proxy.services import Services
from proxy.store.redis import script, unreachable

log = logs.get("proxy.worker")

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # worth another attempt
BUSY = (
    429  # the backend did not try it: waiting costs the job no attempt, only its deadline ends it
)
LOST = {b"alone": "tried-alone", b"failed": "worker-died"}  # as the metric names them
IDLE_SECONDS = 0.2
LONGEST_BACKOFF = 300.0
# What one script writes: it keeps everybody else from Redis for a few milliseconds.
MOST_RECLAIMED = 128
CALLBACKS_AT_ONCE = 64  # half of them to one host
MOST_ENDS = 128
MOST_END_BYTES = 2 * 1024 * 1024


@dataclass(slots=True)
class Taken:
    """A job this worker holds."""

    identity: str
    priority: str
    entry: bytes
    model: str
    content_type: str
    payload: bytes
    input_ref: str
    deadline: float
    attempt: int
    request_id: str
    traceparent: str
    callback: str
    created: float
    query: str
    arm: str
    owner: str
    headers: bytes
    uncounted: int  # attempts that were ended from outside and do not count


@dataclass(slots=True)
class End:
    """A job's end, waiting to be written with others in one round trip."""

    taken: Taken
    state: str
    fields: list[Any]


class Worker:
    """Runs until ``stop``, then finishes or hands back what it holds."""

    def __init__(self, services: Services, name: str) -> None:
        self.services = services
        self.settings = services.settings
        self.policy = services.settings.jobs
        self.name = name
        self.keys = Keys(self.settings.redis_prefix)
        self.stopping = asyncio.Event()
        self._running: dict[str, tuple[Taken, asyncio.Task[None]]] = {}
        self._reserved: tuple[bytes, str] | None = None  # an entry to be run alone, and its job
        self._ends: list[End] = []
        self._ended = asyncio.Event()
        self._all_written = asyncio.Event()
        self._over = asyncio.Event()
        self._room = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._telling_to: Counter[str] = Counter()
        self.teller = Teller(
            self.settings.callbacks, self.settings.callback_secret.get_secret_value()
        )

    def stop(self) -> None:
        """Take no more jobs; ``run`` then ends within ``drain_seconds``."""
        self.stopping.set()
        self._room.set()  # who waits for room hears it too

    @property
    def client(self) -> redis.Redis:
        """The patient Redis client."""
        return self.services.store.need()

    async def run(self) -> None:
        """Take and run jobs until told to stop."""
        while not self.stopping.is_set():
            try:
                await ensure_groups(self.client, self.keys)
                await self._beat()
                self.services.health.ready("redis")
                break
            except (RedisError, OSError) as error:
                self._wait_for_redis(error)
                await pause(1.0, self.stopping)
        writer = asyncio.create_task(self._write_ends())
        beating = asyncio.create_task(self._keep_beating())
        others = [
            asyncio.create_task(self._again_and_again(work, seconds))
            for work, seconds in (
                (self._promote, 0.2),
                (self._tell, 0.5),
                (self._reclaim, self.policy.lease_seconds / 2),
                (self._drop_cancelled, 0.5),
                (self._forget_dead_workers, 60.0),
            )
        ]
        try:
            await self._again_and_again(self._take, 0.0)
        finally:
            others += self._telling  # those that are cut are due again
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._hand_back()
            self._ended.set()
            await self._all_written.wait()
            self._over.set()
            writer.cancel()
            await asyncio.gather(writer, beating, return_exceptions=True)
            await self.teller.close()

    def _wait_for_redis(self, error: Exception) -> None:
        """Not ready: Redis' address without its password, what it said, and the fix."""
        self.services.health.wait_for("redis", *unreachable(self.settings.redis_url, error))

    async def _again_and_again(self, work: Any, seconds: float) -> None:
        while not self.stopping.is_set():
            try:
                await work()
                self.services.health.ready("redis")
            except (RedisError, OSError) as error:
                self._wait_for_redis(error)
                await pause(1.0, self.stopping)
            except Exception as error:  # what failed once must not stop for good
                log.error("work failed, to be done again", use=work.__name__, exc_info=error)
                await pause(1.0, self.stopping)
            if seconds:
                await pause(seconds * random.uniform(0.9, 1.1), self.stopping)

    # --- taking

    async def _take(self) -> None:
        room = self.settings.worker_concurrency - len(self._running)
        runs_alone = any(taken.priority == ALONE for taken, _ in self._running.values())
        if room <= 0 or runs_alone or (self._reserved and self._running):
            self._room.clear()
            await self._room.wait()
            return
        if self._reserved:
            entry, identity = self._reserved
            await self._take_given([(entry, {b"id": identity.encode()})], ALONE)
            self._reserved = None
            return
        streams = [self.keys.stream(priority) for priority in (ALONE, *PRIORITIES)]
        try:
            jobs = await script(
                self.client,
                scripts.TAKE,
                (self.keys.callbacks, self.keys.dead, *streams),
                *self._taking(),
                room,
            )
            if jobs:
                self._begin(jobs, PRIORITIES)
                return
            found: Any = await self.client.xreadgroup(
                GROUP,
                self.name,
                dict.fromkeys(streams, ">"),
                count=1,
                block=round(IDLE_SECONDS * 1000),
            )
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await ensure_groups(self.client, self.keys)  # Redis was emptied or replaced
            return
        for name, entries in found or ():
            queue = name.decode().rsplit(":", 1)[-1]
            if queue == ALONE:
                self._reserved = (entries[0][0], entries[0][1][b"id"].decode())
            else:
                await self._take_given(entries, queue)

    def _taking(self) -> tuple[Any, ...]:
        """What the scripts that take jobs are told."""
        return (
            GROUP,
            self.name,
            f"{time.time():.6f}",
            self.policy.max_attempts,
            round(self.policy.result_ttl_seconds),
            self.keys.jobs,
            self.keys.events,
        )

    async def _take_given(self, entries: Sequence[tuple[bytes, Any]], priority: str) -> None:
        """Take the jobs of entries that Redis already counts as this worker's."""
        if not entries:
            return
        jobs = await script(
            self.client,
            scripts.TAKE_GIVEN,
            (self.keys.callbacks, self.keys.dead, self.keys.stream(priority)),
            *self._taking(),
            *(part for entry, fields in entries for part in (entry, fields[b"id"])),
        )
        self._begin(jobs, (priority,))

    def _begin(self, jobs: Sequence[Any], priorities: Sequence[str]) -> None:
        for position, entry, name, fields in jobs:
            if not position:
                self._reserved = (entry, name.decode())
                continue
            if len(fields) == 1:
                if fields[0]:
                    self.services.metrics.jobs.add("", fields[0].decode())
                continue
            taken = _taken(name.decode(), priorities[position - 1], entry, fields)
            task = asyncio.create_task(self._job(taken))
            self._running[taken.identity] = (taken, task)
            task.add_done_callback(partial(self._done, taken.identity))

    def _done(self, identity: str, task: asyncio.Task[None]) -> None:
        self._running.pop(identity, None)
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Redis did not take the end; the lease runs out and the job is done again.
            log.warning("job left to its lease", job=identity, reason=repr(error))

    # --- running

    async def _job(self, taken: Taken) -> None:
        tracing.request_id.set(taken.request_id)
        submitted = tracing.parse_traceparent(taken.traceparent)
        context = (submitted or tracing.new_trace()).child()
        began = time.time_ns()
        state = "dropped"
        try:
            result = await self._predict(taken, context)
        except Problem as problem:
            state = await self._failed(taken, problem)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.error("job failed", job=taken.identity, exc_info=error)
            state = await self._failed(
                taken, Problem(500, "internal", "the worker failed; its log says why")
            )
        else:
            state = await self._succeeded(taken, result)
        finally:
            if self.services.spans is not None:
                record_span(
                    self.services.spans, taken, context, submitted, began=began, state=state
                )

    async def _predict(self, taken: Taken, context: TraceContext) -> bytes:
        """The job's result as JSON; its input and answers count among the bodies in memory."""
        async with self.services.bodies.room(0, "a job") as held:
            return await self._predict_within(taken, context, held)

    async def _backend(self, taken: Taken, asking: Asking) -> ModelBackend:
        """The job's backend; a model that a server may still get is asked for again later."""
        models = self.services.models
        try:
            return await models.find_for(
                taken.model, taken.query.encode("latin-1"), asking.carried.headers
            )
        except Problem as problem:
            if problem.status == 404 and models.discovery.servers:
                raise Problem(503, "model-unavailable", problem.detail) from None
            raise

    async def _predict_within(self, taken: Taken, context: TraceContext, held: Held) -> bytes:
        left = taken.deadline - time.time()
        if left <= 0:
            raise Problem(410, "job-expired", "the job's deadline has passed")
        asking = Asking(
            request_id_of(taken.request_id.encode()),
            context.traceparent().encode(),
            monotonic() + left,
            taken.arm.encode(),
            hold=held.more,
            carried=propagation.load(taken.headers, taken.query.encode("latin-1")),
        )
        services = self.services
        backend = await self._backend(taken, asking)
        payload = taken.payload
        if taken.input_ref:
            payload = await services.blobs.get(taken.input_ref, held.more)
        if isinstance(backend, SageMakerModel) and backend.settings.asynchronous is not None:
            document = await sagemaker_async.invoke(
                backend,
                backend.settings.asynchronous,
                taken.identity,
                payload=payload,
                content_type=taken.content_type,
                asking=asking,
            )
            return orjson.dumps(document)

        async def progress(share: float) -> None:
            await script(
                self.client,
                scripts.PROGRESS,
                (self.keys.job(taken.identity),),
                taken.attempt,
                f"{share:.4f}",
                self.keys.events,
                taken.identity,
            )

        outcome = await services.predictor.run(
            backend,
            taken.content_type,
            payload,
            asking,
            owner=taken.owner,
            chunk_rows=self.policy.chunk_rows,
            on_progress=progress,
        )
        return orjson.dumps({**outcome.document, "request_id": taken.request_id})

    async def _succeeded(self, taken: Taken, result: bytes) -> str:
        fields: list[Any] = ["progress", 1]
        if len(result) > self.policy.inline_bytes:
            reference = f"{self.policy.prefix}/{taken.identity}/result"
            try:
                await self.services.blobs.put(reference, result, content_type="application/json")
            except Problem as problem:
                return await self._failed(taken, problem)
            fields += ("result_ref", reference)
        else:
            fields += ("result", result)
        return self._end(taken, "succeeded", fields)

    async def _failed(self, taken: Taken, problem: Problem) -> str:
        busy = problem.status == BUSY
        counted = taken.attempt - taken.uncounted
        retry = busy or (problem.status in AGAIN and counted < self.policy.max_attempts)
        wait = backoff(taken.attempt, self.policy.backoff_seconds, problem.headers)
        if retry and time.time() + wait < taken.deadline:
            await script(
                self.client,
                scripts.RETRY,
                (
                    self.keys.job(taken.identity),
                    self.keys.stream(taken.priority),
                    self.keys.delayed,
                ),
                GROUP,
                taken.entry,
                taken.attempt,
                f"{time.time() + wait:.6f}",
                f"{taken.priority}:{taken.identity}",
                self.keys.events,
                taken.identity,
                problem.detail,
                0 if busy else 1,
            )
            state = "deferred" if busy else "retried"
            self.services.metrics.jobs.add(taken.model, state)
            return state
        body = problem.body(request_id=taken.request_id)
        return self._end(taken, "failed", ["error", body, "detail", problem.detail])

    def _end(self, taken: Taken, state: str, fields: list[Any]) -> str:
        self.services.metrics.jobs.add(taken.model, state)
        self.services.metrics.job_seconds.observe(time.time() - taken.created, taken.model)
        self._ends.append(End(taken, state, fields))
        self._all_written.clear()
        self._ended.set()
        return state

    async def _write_ends(self) -> None:
        """Write the ends that came together in one round trip, again until Redis took them."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            self._all_written.clear()
            while self._ends:
                batch = _batch(self._ends)
                try:
                    await script(
                        self.client,
                        scripts.FINISH,
                        (
                            self.keys.callbacks,
                            self.keys.dead,
                            *(self.keys.stream(priority) for priority in QUEUES),
                        ),
                        GROUP,
                        round(self.policy.result_ttl_seconds),
                        f"{time.time():.6f}",
                        self.keys.jobs,
                        self.keys.events,
                        *(part for end in batch for part in _told(end)),
                    )
                except (RedisError, OSError) as error:
                    log.warning("redis does not answer", use="finish", reason=repr(error))
                    await asyncio.sleep(0.5)
                    continue
                del self._ends[: len(batch)]
            self._all_written.set()

    # --- what goes on beside

    async def _promote(self) -> None:
        await script(
            self.client,
            scripts.PROMOTE,
            (self.keys.delayed, *(self.keys.stream(priority) for priority in QUEUES)),
            f"{time.time():.6f}",
            1000,
        )

    async def _keep_beating(self) -> None:
        """Beat until the last job has ended, also while the worker stops.

        It is told by an event: Redis' client keeps a cancellation to itself that comes while a
        connection's time runs out, and the worker waited for this for ever.
        """
        while not self._over.is_set():
            try:
                await self._beat()
            except (RedisError, OSError) as error:
                log.warning("redis does not answer", use="beat", reason=repr(error))
                await pause(min(1.0, self.policy.lease_seconds / 3), self._over)
                continue
            await pause(self.policy.lease_seconds / 3 * random.uniform(0.9, 1.1), self._over)

    async def _beat(self) -> None:
        """Keep the leases of what this worker holds, then say that it runs and what it knows."""
        held: dict[str, list[bytes]] = {}
        for taken, _ in self._running.values():
            held.setdefault(taken.priority, []).append(taken.entry)
        for end in self._ends:
            held.setdefault(end.taken.priority, []).append(end.taken.entry)
        if self._reserved:
            held.setdefault(ALONE, []).append(self._reserved[0])
        for priority, entries in held.items():
            await self.client.xclaim(
                self.keys.stream(priority),
                GROUP,
                self.name,
                min_idle_time=0,
                message_ids=entries,  # type: ignore[arg-type]
                justid=True,
            )
        # What says that this worker runs ends before the leases do: whoever finds one run out
        # then knows whether its worker has died.
        lease = self.policy.lease_seconds * 1000
        names = sorted(self.services.models.backends)
        async with self.client.pipeline(transaction=True) as pipe:
            pipe.set(self.keys.workers + self.name, "", px=round(0.8 * lease))
            for name in names:
                pipe.set(self.keys.worker_model(name), "", px=round(2 * lease))
            pipe.set(self.keys.worker_models, orjson.dumps(names), px=round(0.8 * lease))
            await pipe.execute()

    async def _reclaim(self) -> None:
        """Queue the jobs again of workers that have not kept their leases."""
        for queue in QUEUES:
            stream = self.keys.stream(queue)
            found: Any = await self.client.xautoclaim(
                stream,
                GROUP,
                self.name,
                min_idle_time=round(self.policy.lease_seconds * 1000),
                count=MOST_RECLAIMED,
            )
            held = {*self._running, *(end.taken.identity for end in self._ends)}
            if self._reserved:
                held.add(self._reserved[1])
            lost = [
                (entry, fields[b"id"])
                for entry, fields in found[1]
                if fields and fields[b"id"].decode() not in held
            ]
            if not lost:
                continue
            problem = died_alone()
            outcomes = await script(
                self.client,
                scripts.REQUEUE,
                (self.keys.callbacks, self.keys.dead, stream, self.keys.stream(ALONE)),
                GROUP,
                f"{time.time():.6f}",
                round(self.policy.result_ttl_seconds),
                self.keys.jobs,
                self.keys.events,
                self.keys.workers,
                self.policy.max_deaths_alone,
                problem.body(),
                problem.detail,
                *(part for pair in lost for part in pair),
            )
            for (_, identity), outcome in zip(lost, outcomes, strict=True):
                if outcome in (b"alone", b"failed"):
                    self.services.metrics.jobs.add("", LOST[outcome])
                    log.warning("worker died", job=identity.decode(), outcome=outcome.decode())

    async def _drop_cancelled(self) -> None:
        """Stop running what its caller has cancelled."""
        held = list(self._running.items())
        if not held:
            return
        async with self.client.pipeline(transaction=False) as pipe:
            for identity, _ in held:
                pipe.hmget(self.keys.job(identity), "state", "attempts")
            states = await pipe.execute()
        for (identity, (taken, task)), (state, attempts) in zip(held, states, strict=True):
            if state == b"running" and attempts == str(taken.attempt).encode():
                continue
            task.cancel()
            await self.client.xack(self.keys.stream(taken.priority), GROUP, taken.entry)
            await self.client.xdel(self.keys.stream(taken.priority), taken.entry)
            self.services.metrics.jobs.add(taken.model, "cancelled")
            log.info("job dropped", job=identity, state=(state or b"gone").decode())

    async def _forget_dead_workers(self) -> None:
        """Drop consumers that hold nothing and were not heard of for an hour."""
        for priority in QUEUES:
            stream = self.keys.stream(priority)
            for consumer in await self.client.xinfo_consumers(stream, GROUP):
                if consumer["pending"] == 0 and consumer["idle"] > 3_600_000:
                    await self.client.xgroup_delconsumer(stream, GROUP, consumer["name"])

    async def _tell(self) -> None:
        """Begin the callbacks that are due; none waits for another one's answer."""
        room = CALLBACKS_AT_ONCE - len(self._telling)
        if room <= 0:
            return
        now = time.time()
        hidden = now + self.settings.callbacks.timeout_seconds * 2
        due: list[bytes] = await script(
            self.client,
            scripts.LEASE_DUE,
            (self.keys.callbacks,),
            f"{now:.6f}",
            f"{hidden:.6f}",
            room,
        )
        for identity in due:
            task = asyncio.create_task(self._tell_one(identity.decode()))
            self._telling.add(task)
            task.add_done_callback(partial(self._told, identity.decode()))

    def _told(self, identity: str, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # it is due again once its lease has run out
            log.warning("callback put off", job=identity, reason=repr(error))

    async def _tell_one(self, identity: str) -> None:
        raw: Any = await self.client.hgetall(self.keys.job(identity))
        fields = {name.decode(): value for name, value in raw.items()}
        if not fields:
            await self.client.zrem(self.keys.callbacks, identity)
            return
        url = fields["callback"].decode()
        host = urlsplit(url).netloc
        if self._telling_to[host] >= CALLBACKS_AT_ONCE // 2:  # it may be one that never answers
            later = time.time() + self.settings.callbacks.timeout_seconds
            await self.client.zadd(self.keys.callbacks, {identity: later})
            return
        self._telling_to[host] += 1
        try:
            told = await self._tell_document(url, identity, fields)
        finally:
            self._telling_to[host] -= 1
            if not self._telling_to[host]:
                del self._telling_to[host]
        attempt = int(fields.get("callback_attempts", 0)) + 1
        if told == "failed" and attempt >= self.settings.callbacks.max_attempts:
            told = "given-up"
        self.services.metrics.callbacks.add(told)
        update = {"callback_attempts": attempt, "callback_state": told}
        await self.client.hset(self.keys.job(identity), mapping=update)  # type: ignore[arg-type]
        if told == "failed":
            wait = backoff(attempt, 1.0, {})
            await self.client.zadd(self.keys.callbacks, {identity: time.time() + wait})
        else:
            await self.client.zrem(self.keys.callbacks, identity)
            if told != "sent":
                log.warning("callback not made", job=identity, outcome=told, attempts=attempt)

    async def _tell_document(self, url: str, identity: str, fields: dict[str, bytes]) -> str:
        result = fields.get("result", b"")
        async with self.services.bodies.room(0, "a callback") as held:
            if "result_ref" in fields:
                reference = fields["result_ref"].decode()
                result = await self.services.blobs.get(reference, held.more)
            body = orjson.dumps(document(identity, fields, result))
            return await self.teller.tell(url, identity, body)

    async def _hand_back(self) -> None:
        """Let jobs under way finish for a while; what does not goes back, its attempt uncounted."""
        tasks = [task for _, task in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self.settings.drain_seconds)
        await self._give_up_reserved()
        for identity, (taken, task) in list(self._running.items()):
            task.cancel()
            try:
                await script(
                    self.client,
                    scripts.RELEASE,
                    (self.keys.job(identity), self.keys.stream(taken.priority)),
                    GROUP,
                    taken.entry,
                    taken.attempt,
                    identity,
                )
            except (RedisError, OSError) as error:
                log.warning("job not handed back", job=identity, reason=repr(error))

    async def _give_up_reserved(self) -> None:
        """Let another worker claim the job that waits to be run alone, without its lease."""
        if self._reserved is None:
            return
        entry, identity = self._reserved
        self._reserved = None
        try:
            await self.client.xclaim(
                self.keys.stream(ALONE),
                GROUP,
                self.name,
                min_idle_time=0,
                message_ids=[entry],
                idle=round(self.policy.lease_seconds * 1000),
                justid=True,
            )
        except (RedisError, OSError) as error:
            log.warning("job not handed back", job=identity, reason=repr(error))


def _batch(ends: Sequence[End]) -> Sequence[End]:
    """The first ends, as many as one script may write; at least one."""
    size = 0
    for count, end in enumerate(ends[:MOST_ENDS]):
        size += sum(len(field) for field in end.fields if isinstance(field, bytes))
        if count and size > MOST_END_BYTES:
            return ends[:count]
    return ends[:MOST_ENDS]


def _told(end: End) -> tuple[Any, ...]:
    """An end as the script that writes it wants it."""
    taken = end.taken
    return (
        QUEUES.index(taken.priority) + 1,
        taken.entry,
        taken.identity,
        taken.attempt,
        end.state,
        len(end.fields),
        *end.fields,
    )


def record_span(
    spans: Spans,
    taken: Taken,
    context: TraceContext,
    submitted: TraceContext | None,
    *,
    began: int,
    state: str,
) -> None:
    """An attempt at a job as a span below the request that submitted it."""
    spans.add(
        f"process {taken.model}",
        context,
        parent=submitted,
        start_ns=began,
        end_ns=time.time_ns(),
        attributes={
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.message.id": taken.identity,
            "slipway.model": taken.model,
            "slipway.job.attempt": taken.attempt,
            "slipway.job.priority": taken.priority,
            "slipway.job.state": state,
            "slipway.request_id": taken.request_id,
        },
        kind="consumer",
        error=state if state in ("failed", "retried") else "",
    )


def backoff(attempt: int, base: float, headers: Mapping[str, str]) -> float:
    """Seconds until the next attempt: doubling, jittered by half, or what Retry-After says."""
    wait: float = min(LONGEST_BACKOFF, base * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
    said = headers.get("retry-after", "")
    return max(wait, min(LONGEST_BACKOFF, float(said))) if said.isdigit() else wait


def _taken(identity: str, priority: str, entry: bytes, fields: list[bytes | None]) -> Taken:
    def text(position: int) -> str:
        return (fields[position] or b"").decode()

    return Taken(
        identity=identity,
        priority=priority,
        entry=entry,
        model=text(0),
        content_type=text(1),
        payload=fields[2] or b"",
        input_ref=text(3),
        deadline=float(text(4)),
        attempt=int(text(5)),
        request_id=text(6),
        traceparent=text(7),
        callback=text(8),
        created=float(text(9)),
        query=text(10),
        arm=text(11),
        owner=text(12),
        headers=fields[13] or b"",
        uncounted=int(text(14) or 0),
    )
