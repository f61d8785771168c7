"""How many tiny jobs one worker on one core does in a second, end to end."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from pathlib import Path

import redis.asyncio as redis

from bench.proxy.programs import own
from bench.proxy.servers import SERVER_CORE, free_port, started
from kit.lifecycle.health import Health
from proxy.jobs.queue import PRIORITIES, Keys, Submission
from proxy.services import Services
from proxy.settings import ProxySettings


def measure(
    upstream: str, redis_port: int, folder: Path, count: int, rounds: int
) -> dict[str, float]:
    """Submit ``count`` jobs, then let a worker loose on them; its start is not counted. Medians."""
    found = [asyncio.run(_measure(upstream, redis_port, folder, count)) for _ in range(rounds)]
    return {name: round(statistics.median(each[name] for each in found)) for name in found[0]}


async def _measure(upstream: str, redis_port: int, folder: Path, count: int) -> dict[str, float]:
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    url = f"redis://127.0.0.1:{redis_port}/0"
    backends = json.dumps({"digits": {"type": "http", "url": upstream}})
    settings = ProxySettings(
        redis_url=url, redis_prefix=prefix, backends=json.loads(backends), access_log="off"
    )
    services = Services(settings, Health())
    await services.start()
    keys = Keys(prefix)
    client = redis.Redis.from_url(url)
    body = json.dumps({"instances": [[0.5]]}).encode()

    async def submit(number: int) -> None:
        for _ in range(number):
            await services.jobs.submit(
                Submission("digits", "application/json", body, "", "normal", 900.0, "bench", "")
            )

    began = time.monotonic()
    await asyncio.gather(*(submit(count // 16) for _ in range(16)))
    count = count // 16 * 16
    submitting = time.monotonic() - began
    port = free_port()
    env = {
        "PROXY_HOST": "127.0.0.1",
        "PROXY_PORT": str(port),
        "PROXY_STOP_DELAY_SECONDS": "0",
        "PROXY_BACKENDS": backends,
        "PROXY_REDIS_URL": url,
        "PROXY_REDIS_PREFIX": prefix,
        "PROXY_WORKER_CONCURRENCY": "64",
    }

    async def left() -> int:
        return sum([await client.xlen(keys.stream(priority)) for priority in PRIORITIES])

    log = folder / "worker.log"
    with started("worker", port, [own("proxy"), "worker"], core=SERVER_CORE, log=log,
                 **env) as worker:  # fmt: skip
        first, at = await left(), time.monotonic()
        cpu = worker.cpu_seconds()
        while remaining := await left():
            await asyncio.sleep(0.02)
            assert time.monotonic() - at < 120, f"{remaining} jobs left"
        seconds = time.monotonic() - at
        cpu = worker.cpu_seconds() - cpu
    succeeded = 0
    async for key in client.scan_iter(match=keys.job("*"), count=1000):
        succeeded += await client.hget(key, "state") == b"succeeded"
    await client.aclose()
    await services.stop()
    return {
        "jobs": count,
        "submitted_per_second": round(count / submitting),
        "done_per_second": round(first / seconds),
        "done_per_cpu_second": round(first / cpu),
        "lost": count - succeeded,
    }
