"""Callbacks that are due: begun side by side, repeated while they fail, each host bounded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson

from kit.telemetry import logs
from proxy.jobs import scripts
from proxy.jobs.queue import Keys, document
from proxy.services import Services
from proxy.store.redis import script
from proxy.worker.callback_client import CallbackClient
from proxy.worker.job import backoff

log = logs.get("proxy.worker")

MOST_CALLBACKS = 64
"""Callbacks under way; half of them to one host."""


class Callbacks:
    """Makes the callbacks of ended jobs."""

    def __init__(self, services: Services, keys: Keys) -> None:
        self._services = services
        self._store = services.store
        self._policy = services.settings.callbacks
        self._keys = keys
        self.under_way: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()
        self._client = CallbackClient(
            self._policy, services.settings.callback_secret.get_secret_value()
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def begin_due(self) -> None:
        """Begin the callbacks that are due; none waits for another one's answer."""
        room = MOST_CALLBACKS - len(self.under_way)
        if room <= 0:
            return
        now = time.time()
        hidden = now + self._policy.timeout_seconds * 2
        due: list[bytes] = await script(
            self._store.need(),
            scripts.LEASE_DUE,
            (self._keys.callbacks,),
            f"{now:.6f}",
            f"{hidden:.6f}",
            room,
        )
        for identity in due:
            task = asyncio.create_task(self._send_one(identity.decode()))
            self.under_way.add(task)
            task.add_done_callback(partial(self._done, identity.decode()))

    def _done(self, identity: str, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # it is due again once its lease has run out
            log.warning("callback put off", job=identity, reason=repr(error))

    async def _send_one(self, identity: str) -> None:
        raw: Any = await self._store.need().hgetall(self._keys.job(identity))
        fields = {name.decode(): value for name, value in raw.items()}
        if not fields:
            await self._store.need().zrem(self._keys.callbacks, identity)
            return
        url = fields["callback"].decode()
        host = urlsplit(url).netloc
        if self._hosts[host] >= MOST_CALLBACKS // 2:  # it may be one that never answers
            later = time.time() + self._policy.timeout_seconds
            await self._store.need().zadd(self._keys.callbacks, {identity: later})
            return
        self._hosts[host] += 1
        try:
            outcome = await self._send_document(url, identity, fields)
        finally:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
        attempt = int(fields.get("callback_attempts", 0)) + 1
        if outcome == "failed" and attempt >= self._policy.max_attempts:
            outcome = "given-up"
        self._services.metrics.callbacks.add(outcome)
        update = {"callback_attempts": attempt, "callback_state": outcome}
        await self._store.need().hset(self._keys.job(identity), mapping=update)  # type: ignore[arg-type]
        if outcome == "failed":
            wait = backoff(attempt, 1.0, {})
            await self._store.need().zadd(self._keys.callbacks, {identity: time.time() + wait})
        else:
            await self._store.need().zrem(self._keys.callbacks, identity)
            if outcome != "sent":
                log.warning("callback not made", job=identity, outcome=outcome, attempts=attempt)

    async def _send_document(self, url: str, identity: str, fields: dict[str, bytes]) -> str:
        result = fields.get("result", b"")
        async with self._services.bodies.room(0, "a callback") as held:
            if "result_ref" in fields:
                reference = fields["result_ref"].decode()
                result = await self._services.blobs.get(reference, held.more)
            body = orjson.dumps(document(identity, fields, result))
            return await self._client.send(url, identity, body)
