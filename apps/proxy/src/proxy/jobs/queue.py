"""Jobs: predictions that are answered later. The side of those who submit and ask."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
import redis.asyncio as redis
from redis.exceptions import RedisError

from kit.http.problem import Problem
from proxy.http.resilience import Concurrency
from proxy.jobs import scripts
from proxy.settings import ProxySettings
from proxy.store.redis import Store, key_of, script, unavailable
from proxy.store.s3 import Blobs, Hold, unbounded

PRIORITIES = ("high", "normal", "low")
ALONE = "alone"
"""The queue of jobs under which a worker died: a worker runs each of them with no other beside."""
QUEUES = (*PRIORITIES, ALONE)
GROUP = "workers"
ENDED = frozenset({"succeeded", "failed", "cancelled", "expired"})
HEARTBEAT_SECONDS = 15.0
IDENTITY = re.compile(r"^[0-9a-f]{32}\Z")
FOLLOWERS_SHARE = 0.75  # what one caller may have of the event streams


@dataclass(frozen=True, slots=True)
class Keys:
    """Every Redis key of the jobs, under one hash tag."""

    prefix: str

    @property
    def jobs(self) -> str:
        """What the name of a job's hash begins with."""
        return f"{{{self.prefix}}}:job:"

    def job(self, identity: str) -> str:
        """The job's hash."""
        return self.jobs + identity

    def stream(self, priority: str) -> str:
        """The queue of a priority."""
        return f"{{{self.prefix}}}:jobs:{priority}"

    def idempotency(self, owner: str, key: str) -> str:
        """Which job a caller's idempotency key has made."""
        return f"{{{self.prefix}}}:idempotency:{key_of(owner, key)}"

    @property
    def workers(self) -> str:
        """What the keys of running workers begin with; each expires when its worker is gone."""
        return f"{{{self.prefix}}}:worker:"

    @property
    def worker_models(self) -> str:
        """The models that a worker knows, JSON; there while any worker runs."""
        return f"{{{self.prefix}}}:workers:models"

    def worker_model(self, model: str) -> str:
        """There while a worker runs that knows the model."""
        return f"{{{self.prefix}}}:workers:model:{model}"

    @property
    def delayed(self) -> str:
        """Jobs that wait for their next attempt, by the time it is due."""
        return f"{{{self.prefix}}}:jobs:delayed"

    @property
    def dead(self) -> str:
        """The stream of jobs that were given up."""
        return f"{{{self.prefix}}}:jobs:dead"

    @property
    def callbacks(self) -> str:
        """Callbacks to be made, by the time they are due."""
        return f"{{{self.prefix}}}:callbacks"

    @property
    def events(self) -> str:
        """What the channel of a job's events begins with."""
        return f"{{{self.prefix}}}:events:"


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller hands in."""

    model: str
    content_type: str
    payload: bytes
    owner: str
    priority: str
    seconds: float
    request_id: str
    traceparent: str
    callback: str = ""
    idempotency_key: str = ""
    query: str = ""
    headers: bytes = b""
    arm: str = ""

    def fingerprint(self) -> str:
        """The same for what asks for the same: model, input, query and callback."""
        digest = hashlib.sha256()
        for part in (self.model, self.content_type, self.query, self.callback):
            digest.update(f"{len(part)} {part}\n".encode())
        digest.update(self.payload)
        return digest.hexdigest()


class Jobs:
    """Submit, look at, follow and cancel jobs. Every method raises Problem 503 without Redis."""

    def __init__(self, settings: ProxySettings, store: Store, blobs: Blobs) -> None:
        self.policy = settings.jobs
        self.keys = Keys(settings.redis_prefix)
        self._store = store
        self._blobs = blobs
        self._followers = Concurrency(settings.jobs.max_followers, FOLLOWERS_SHARE)

    async def check_known(self, model: str) -> None:
        """Problem 422 where workers run and none of them knows the model.

        Where none runs nothing is known: an autoscaler starts the first one for the first job.
        """
        client = self._store.need()
        try:
            known, found = await client.mget(self.keys.worker_models, self.keys.worker_model(model))
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        if known is None or found is not None:
            return
        names = ", ".join(orjson.loads(known)) or "none"
        raise Problem(
            422,
            "unknown-to-workers",
            f"the workers that run jobs do not know the model {model!r} (they know: {names}); "
            f"give the worker's PROXY_BACKENDS the model as the proxy's has it, "
            f"or ask /v1/predict/{model}",
        )

    async def submit(self, given: Submission) -> tuple[str, bool]:
        """Queue a job: its id, and whether it is new (an idempotency key may know it)."""
        client = self._store.need()
        identity = secrets.token_hex(16)
        now = time.time()
        fields: dict[str, Any] = {
            "state": "queued",
            "model": given.model,
            "content_type": given.content_type,
            "owner": given.owner,
            "priority": given.priority,
            "created": f"{now:.6f}",
            "deadline": f"{now + given.seconds:.6f}",
            "attempts": 0,
            "progress": 0,
            "request_id": given.request_id,
            "traceparent": given.traceparent,
            "callback": given.callback,
            "query": given.query,
            "headers": given.headers,
            "arm": given.arm,
            "fingerprint": given.fingerprint(),
        }
        if len(given.payload) > self.policy.inline_bytes:
            reference = f"{self.policy.prefix}/{identity}/input"
            await self._blobs.put(reference, given.payload, content_type=given.content_type)
            fields["input_ref"] = reference
        else:
            fields["input"] = given.payload
        life = round(given.seconds + self.policy.result_ttl_seconds)
        idempotency = self.keys.idempotency(given.owner, given.idempotency_key)
        flat = [part for pair in fields.items() for part in pair]
        try:
            new, known = await script(
                client,
                scripts.SUBMIT,
                (self.keys.job(identity), self.keys.stream(given.priority), idempotency),
                identity,
                life,
                1 if given.idempotency_key else 0,
                *flat,
            )
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        if not new:
            await self._check_same(known.decode(), given, fields["fingerprint"])
        return known.decode(), bool(new)

    async def _check_same(self, identity: str, given: Submission, fingerprint: str) -> None:
        """Problem 422 where the key's job was made from another request."""
        first = (await self._fields(identity, given.owner)).get("fingerprint")
        if first is not None and first.decode() != fingerprint:
            raise Problem(
                422,
                "idempotency-key-reused",
                f"Idempotency-Key {given.idempotency_key!r} has made job {identity} from another "
                "request (model, input, query or callback differ): send a new key",
            )

    async def get(self, identity: str, owner: str, hold: Hold = unbounded) -> dict[str, Any]:
        """A job as a document; Problem 404 where it is unknown, over, or somebody else's.

        ``hold`` gets the size of a result before it is read; see `Blobs.get`.
        """
        fields = await self._fields(identity, owner)
        return await self._document(identity, fields, hold)

    async def cancel(self, identity: str, owner: str, hold: Hold = unbounded) -> dict[str, Any]:
        """Cancel a job that has not ended; Problem 409 where it has."""
        await self._fields(identity, owner)
        client = self._store.need()
        try:
            found = await script(
                client,
                scripts.CANCEL,
                (self.keys.job(identity), self.keys.callbacks),
                f"{time.time():.6f}",
                round(self.policy.result_ttl_seconds),
                self.keys.events,
                identity,
            )
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        if found not in (b"done", b"cancelled"):
            raise Problem(
                409,
                "job-ended",
                f"job {identity} has {found.decode() or 'gone'}; it can no longer be cancelled",
            )
        return await self.get(identity, owner, hold)

    async def follow(
        self, identity: str, owner: str, hold: Hold = unbounded
    ) -> AsyncIterator[dict[str, Any] | None]:
        """The job's document now and at every change until it ends; None is a heartbeat.

        Problem 429 where as many follow as may.
        """
        self._store.need()
        if not self._followers.enter(owner):
            raise Problem(
                429,
                "too-many-followers",
                f"{self._followers.limit} event streams of jobs are open here, which is the limit; "
                f"ask GET /v1/jobs/{identity} now and then, or raise PROXY_JOBS' `max_followers`",
                headers={"retry-after": "5"},
            )
        pubsub = self._store.following.pubsub(ignore_subscribe_messages=True)
        try:
            # First the ear, then the look: an event between the two would be lost otherwise.
            await pubsub.subscribe(self.keys.events + identity)
            document = await self.get(identity, owner, hold)
            yield document
            while document["state"] not in ENDED:
                message = await pubsub.get_message(timeout=HEARTBEAT_SECONDS)
                if message is None:
                    yield None
                latest = await self.get(identity, owner, hold)
                if latest != document:
                    document = latest
                    yield document
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        finally:
            self._followers.leave(owner)
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def depth(self) -> list[tuple[tuple[str, ...], float]]:
        """Jobs waiting for each priority, for metrics and autoscalers.

        Raises RedisError or OSError where Redis does not answer.
        """
        async with self._store.need().pipeline(transaction=False) as pipe:
            for priority in QUEUES:
                pipe.xlen(self.keys.stream(priority))
            pipe.zcard(self.keys.delayed)
            pipe.xlen(self.keys.dead)
            counts = await pipe.execute()
        names = (*QUEUES, "delayed", "dead")
        return [((name,), float(n)) for name, n in zip(names, counts, strict=True)]

    async def oldest(self) -> list[tuple[tuple[str, ...], float]]:
        """Seconds the oldest entry of each queue has been there; raises as `depth` does."""
        async with self._store.need().pipeline(transaction=False) as pipe:
            for priority in QUEUES:
                pipe.xrange(self.keys.stream(priority), count=1)
            found = await pipe.execute()
        now = time.time() * 1000
        return [
            (
                (priority,),
                max(0.0, now - int(entries[0][0].split(b"-")[0])) / 1000 if entries else 0.0,
            )
            for priority, entries in zip(QUEUES, found, strict=True)
        ]

    async def _fields(self, identity: str, owner: str) -> dict[str, bytes]:
        client = self._store.need()
        if not IDENTITY.match(identity):
            raise _unknown(identity)
        try:
            raw = cast(dict[bytes, bytes], await client.hgetall(self.keys.job(identity)))
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        fields = {name.decode(): value for name, value in raw.items()}
        if not fields or fields.get("owner", b"").decode() != owner:
            raise _unknown(identity)
        return fields

    async def _document(
        self, identity: str, fields: Mapping[str, bytes], hold: Hold
    ) -> dict[str, Any]:
        return document(identity, fields, await self._result(fields, hold))

    async def _result(self, fields: Mapping[str, bytes], hold: Hold) -> bytes:
        if "result_ref" in fields:
            return await self._blobs.get(fields["result_ref"].decode(), hold)
        return fields.get("result", b"")


def _unknown(identity: str) -> Problem:
    return Problem(
        404, "unknown-job", f"there is no job {identity[:64]!r}, or it ended too long ago"
    )


def document(identity: str, fields: Mapping[str, bytes], result: bytes) -> dict[str, Any]:
    """A job for people and programs. Times are seconds since 1970."""
    text = {
        name: value.decode("utf-8", "replace")
        for name, value in fields.items()
        if name not in ("input", "result")
    }
    found: dict[str, Any] = {
        "id": identity,
        "model": text["model"],
        "state": text["state"],
        "priority": text.get("priority", "normal"),
        "progress": float(text.get("progress", 0)),
        "attempts": int(text.get("attempts", 0)) - int(text.get("uncounted", 0)),
        "created": float(text["created"]),
        "deadline": float(text["deadline"]),
    }
    for name in ("started", "finished"):
        if text.get(name):
            found[name] = float(text[name])
    if text.get("detail"):
        found["detail"] = text["detail"]
    if text.get("error"):
        found["error"] = orjson.loads(text["error"])
    if result:
        found["result"] = orjson.Fragment(result)  # JSON already: nobody here looks into it
    return found


async def ensure_groups(client: redis.Redis, keys: Keys) -> None:
    """Make streams and consumer group where they are not there yet."""
    for priority in QUEUES:
        try:
            await client.xgroup_create(keys.stream(priority), GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Wait, but not longer than until ``stop``."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
