"""Which models a server has, learned from the server itself: its repository index.

A backend with ``models: discover`` names a server. Its index is read every few seconds, and when
a request names a model that nobody has, but not more often than once a second: so many names that
are none cost one question a second.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

import orjson

from kit.http.problem import Problem
from kit.telemetry import logs
from proxy.config.backends import HttpBackend
from proxy.config.types import NAME
from proxy.http import deadline as deadlines
from proxy.http.client import Pool
from proxy.http.connection import UpstreamError
from proxy.http.destination import Destination

log = logs.get("proxy.discovery")

INDEX = b"/v2/repository/index"
LARGEST_INDEX = 1024 * 1024
LARGEST_NUMBER = 1000
"""Most models of one server."""
TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 1.0
FORGOTTEN_AFTER = 3
"""Readings in a row without a model until it is gone: while a server's pods are replaced, old and
new ones answer alternately."""
_NAME = re.compile(NAME)


class BadIndexError(Exception):
    """What a server answered is no repository index."""


def names_in(document: bytes) -> list[str]:
    """The models of an index, sorted; BadIndexError where it is none."""
    try:
        rows: Any = orjson.loads(document)
        names = {str(row["name"]) for row in rows}
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BadIndexError(f"it answers no repository index ({error!r})") from None
    if len(names) > LARGEST_NUMBER:
        raise BadIndexError(f"it has {len(names)} models, and {LARGEST_NUMBER} are looked for")
    return sorted(name for name in names if _NAME.fullmatch(name))


class Server:
    """One server of the Open Inference Protocol, and the models it was seen to have."""

    def __init__(
        self, name: str, settings: HttpBackend, destination: Destination, margin: float
    ) -> None:
        self.name = name
        self.settings = settings
        self.destination = destination
        self.reason = "it was not asked yet"
        """Why its models are not known; empty once they are."""
        self.models: list[str] = []
        self._margin = margin
        self._missed: dict[str, int] = {}

    async def read(self) -> None:
        """Ask for the index; what was known stays where the server does not answer."""
        try:
            found = names_in(await self._index())
        except (Problem, BadIndexError) as error:
            reason = error.detail if isinstance(error, Problem) else f"{self.name}: {error}"
            if self.reason != reason:
                log.warning("models not known", server=self.name, reason=reason)
            if not self.models:
                self.reason = reason
            return
        self.reason = ""
        self._missed = {
            name: self._missed.get(name, 0) + 1 for name in self.models if name not in found
        }
        kept = [name for name, times in self._missed.items() if times < FORGOTTEN_AFTER]
        self.models = sorted({*found, *kept})

    async def _index(self) -> bytes:
        body = b"{}"

        def head(pool: Pool, left: float) -> bytes:
            return b"".join(
                (
                    b"POST ",
                    pool.base_path,
                    INDEX,
                    b" HTTP/1.1\r\nhost: ",
                    pool.authority,
                    b"\r\nx-request-timeout: ",
                    deadlines.passed_on(left, margin=self._margin),
                    b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body),
                )
            )

        exchange = await self.destination.ask(
            head, body, deadline=monotonic() + TIMEOUT_SECONDS, repeatable=True
        )
        try:
            answer = await exchange.connection.body(LARGEST_INDEX, lambda _: None)
        except UpstreamError as error:
            raise self.destination.problem(error) from error
        finally:
            exchange.end()
        if exchange.connection.status != 200:
            raise BadIndexError(f"it answers {exchange.connection.status} for its repository index")
        return answer


class Discovery:
    """The servers, in the order of the settings: the first that has a model serves it."""

    def __init__(self, servers: Mapping[str, Server], changed: Callable[[], None]) -> None:
        self.servers = dict(servers)
        self._changed = changed
        self._reading: asyncio.Task[None] | None = None
        self._read_at = -FRESH_SECONDS
        self._reported: set[str] = set()

    def by_model(self, names_in_use: Iterable[str]) -> dict[str, Server]:
        """Every model's server, without the models whose names are ``names_in_use``."""
        found: dict[str, Server] = {}
        names = set(names_in_use)
        for server in self.servers.values():
            for model in server.models:
                if model not in found and model not in names:
                    found[model] = server
                elif model not in self._reported:
                    self._reported.add(model)
                    other = found[model].name if model in found else "PROXY_BACKENDS"
                    log.warning("model passed over", model=model, server=server.name, has=other)
        return found

    def unknown(self) -> list[str]:
        """Why the models of some servers are not known."""
        return [server.reason for server in self.servers.values() if server.reason]

    async def refresh(self) -> None:
        """Have a listing no older than a second; one reading at a time, which all wait for."""
        if self._reading is None:
            if not self.servers or monotonic() - self._read_at < FRESH_SECONDS:
                return
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            await asyncio.gather(*(server.read() for server in self.servers.values()))
            self._changed()
        finally:
            self._read_at = monotonic()
            self._reading = None


def missing(named: Sequence[tuple[str, str]], known: Iterable[str]) -> list[str]:
    """Sentences about settings (setting, model) that name a model which nobody has."""
    there = set(known)
    return [f"{setting} names {model!r}" for setting, model in named if model not in there]
