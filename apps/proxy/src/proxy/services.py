"""Everything a running proxy holds: backends, upstreams, credentials, limits, metrics."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path

import aiohttp

from kit.lifecycle.health import Health
from kit.memory.budget import Budget, body_budget
from kit.telemetry.spans import Spans, configure
from proxy.config.backends import HttpBackend, Target, discovers
from proxy.http.client import machine_authorities
from proxy.http.destination import Destination, guard_of
from proxy.jobs.metrics import QueueWatch
from proxy.jobs.queue import Jobs
from proxy.models.backend import ModelBackend
from proxy.models.discovery import Server, missing
from proxy.models.http import HttpModel, destination_of
from proxy.models.registry import Models
from proxy.models.sagemaker import SageMakerModel
from proxy.policy.authentication import Authenticator
from proxy.policy.rate_limit import Limits
from proxy.predictions.cache import PredictionCache
from proxy.predictions.predictor import Predictor
from proxy.settings import ProxySettings
from proxy.store.redis import Store
from proxy.store.s3 import Blobs
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.metrics import Metrics

START_FIX = "correct the setting that it names; `proxy settings` says what each takes"
MODELS_FIX = "publish these models to a server in PROXY_BACKENDS, or correct the settings"
SWEEP_SECONDS = 5.0
LARGEST_KEY_SET = 1024 * 1024
BREAKER_STATES = {"closed": 0.0, "half-open": 1.0, "open": 2.0}


class Services:
    """Made before the loop runs, ``start``ed in it."""

    models: Models
    upstreams: dict[str, Destination]
    auth: Authenticator
    limits: Limits
    store: Store
    cache: PredictionCache
    predictor: Predictor
    bodies: Budget
    body_limit: int
    blobs: Blobs
    jobs: Jobs
    session: aiohttp.ClientSession
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        settings: ProxySettings,
        health: Health,
        metrics: Metrics | None = None,
        spans: Spans | None = None,
        *,
        service: str = "proxy",
    ) -> None:
        self.settings = settings
        self.health = health
        self.metrics = metrics or Metrics()
        self.access = AccessLog(
            {
                "service": service,
                "release": settings.release_name,
                "pod": settings.pod_name,
                "revision": settings.source_revision,
            },
            self.metrics.access_log_dropped,
        )
        self.spans = spans or configure(
            service, pod=settings.pod_name, release=settings.release_name
        )
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open what needs the event loop."""
        settings, metrics = self.settings, self.metrics
        self.loop = asyncio.get_running_loop()
        # One for all: certificates are verified, by the machine's authorities or the given ones.
        tls = _authorities(settings.ca_file)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            timeout=aiohttp.ClientTimeout(total=10, sock_connect=3),
        )
        self.bodies = body_budget(settings.body_memory_bytes)
        self.body_limit = min(settings.max_body_bytes, self.bodies.total)
        backends: dict[str, ModelBackend] = {}
        servers: dict[str, Server] = {}
        largest = self.bodies.total // 2
        for name, backend in settings.backends.items():
            if not isinstance(backend, HttpBackend):
                backends[name] = SageMakerModel(name, backend, settings, metrics)
            elif discovers(backend):
                destination = destination_of(name, backend, settings, metrics, tls)
                servers[name] = Server(name, backend, destination, settings.hop_margin_seconds)
            else:
                backends[name] = HttpModel(
                    name, backend, settings, metrics, tls, largest_answer=largest
                )

        def made(name: str, server: Server) -> ModelBackend:
            return HttpModel(
                name,
                server.settings,
                settings,
                metrics,
                tls,
                largest_answer=largest,
                server=server.destination,
            )

        self.models = Models(backends, settings.rules, servers, made)
        self.upstreams = {
            key: Destination(
                f"api/{key}",
                [Target(url=upstream.url)],
                guard_of(upstream),
                metrics,
                retry_ratio=settings.retry_ratio,
                connect_timeout=settings.connect_timeout_seconds,
                idle_seconds=min(4.0, settings.pool_idle_seconds),
                usual_timeout=settings.timeout_seconds,
                tls=tls,
            )
            for key, upstream in settings.upstreams.items()
        }
        self.auth = Authenticator(
            settings.api_keys, settings.jwt, settings.auth_required, self._fetch
        )
        self.store = Store(settings, metrics)
        self.limits = Limits(settings, self.store)
        self.cache = PredictionCache(self.store, metrics, settings.cache_memory_bytes)
        self.predictor = Predictor(settings, self.store, self.cache, self.bodies)
        self.blobs = Blobs(settings.jobs.bucket)
        self.jobs = Jobs(settings, self.store, self.blobs)
        metrics.gauge(
            "slipway_proxy_breaker_state",
            "Circuit breaker of each backend address: 0 closed, 1 half-open, 2 open.",
            ("backend", "address"),
            self._breakers,
        )
        metrics.gauge(
            "slipway_proxy_backend_in_flight",
            "Requests under way at each backend.",
            ("backend",),
            self._in_flight,
        )
        self._background = [
            self.loop.create_task(self._sweep()),
            self.loop.create_task(self.auth.keep_fresh()),
        ]
        if servers:
            self._background.append(self.loop.create_task(self._discover()))

    def watch_queues(self) -> QueueWatch:
        """Begin to report the depth and the age of the queues of jobs."""
        return QueueWatch(self.jobs, self.metrics, self.health, self.settings.redis_url)

    async def stop(self) -> None:
        """Close everything; the requests have ended."""
        for task in self._background:
            task.cancel()
        for backend in self.models.backends.values():
            await backend.close()
        for server in self.models.discovery.servers.values():
            server.destination.close()
        for upstream in self.upstreams.values():
            upstream.close()
        await self.session.close()
        await self.store.close()
        self.blobs.close()
        self.predictor.close()
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)
        self.access.flush()

    async def _fetch(self, url: str) -> bytes:
        plain = {"accept-encoding": "identity"}
        async with self.session.get(url, allow_redirects=False, headers=plain) as answer:
            answer.raise_for_status()
            data = bytearray()
            async for part in answer.content.iter_any():
                data += part
                if len(data) > LARGEST_KEY_SET:
                    raise ValueError(
                        f"{url} gives more than {LARGEST_KEY_SET} bytes; is it the issuer's JWKS?"
                    )
            return bytes(data)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for backend in self.models.backends.values():
                backend.sweep()
            for server in self.models.discovery.servers.values():
                server.destination.sweep()
            for upstream in self.upstreams.values():
                upstream.sweep()

    async def _discover(self) -> None:
        """Keep what servers have known, and say which models of the settings nobody has."""
        discovery = self.models.discovery
        while True:
            await discovery.refresh()
            if discovery.unknown():
                absent = []  # they may be there
            else:
                absent = missing(self.settings.models_named(), self.models.backends)
            if absent:
                self.health.do_without("models", "; ".join(absent), MODELS_FIX)
            else:
                self.health.do_with("models")
            await asyncio.sleep(self.settings.discovery_seconds)

    def _breakers(self) -> Iterable[tuple[tuple[str, ...], float]]:
        for name, backend in self._owners():
            for address, state in backend.breakers():
                yield (name, address), BREAKER_STATES[state]
        for name, server in self.models.discovery.servers.items():
            for address, state in server.destination.states():
                yield (name, address), BREAKER_STATES[state]
        for key, upstream in self.upstreams.items():
            for address, state in upstream.states():
                yield (f"api/{key}", address), BREAKER_STATES[state]

    def _in_flight(self) -> Iterable[tuple[tuple[str, ...], float]]:
        for name, backend in self._owners():
            yield (name,), float(backend.in_flight())
        for name, server in self.models.discovery.servers.items():
            yield (name,), float(server.destination.concurrency.in_flight)
        for key, upstream in self.upstreams.items():
            yield (f"api/{key}",), float(upstream.concurrency.in_flight)

    def _owners(self) -> list[tuple[str, ModelBackend]]:
        """The backends that share their destination with no other."""
        return [
            (name, backend)
            for name, backend in self.models.backends.items()
            if not (isinstance(backend, HttpModel) and backend.shares_destination)
        ]


def _authorities(file: Path | None) -> ssl.SSLContext:
    """Those that the file holds, or the machine's."""
    if file is None:
        return machine_authorities()
    try:
        return ssl.create_default_context(cafile=file)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"PROXY_CA_FILE {file} holds no certificates: {error}") from None
