"""What the proxy knows about the request it is serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from kit.memory.budget import Budget
from proxy.config.policies import RateLimit
from proxy.http import headers, paths

WriteComplete = Callable[[int, list[tuple[bytes, bytes]], bytes], bool]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody known: ``name`` for logs and limits, and what they may do."""

    name: str
    scopes: frozenset[str]
    rate_limit: RateLimit | None = None

    def may(self, action: str, thing: str) -> bool:
        """Whether a scope allows ``action:thing``, ``action:*`` or everything (``*``)."""
        return (
            "*" in self.scopes or f"{action}:*" in self.scopes or f"{action}:{thing}" in self.scopes
        )


class Request:
    """One request on its way: its identity, its deadline, and what is reported about it."""

    __slots__ = (
        "_fields",
        "admitted",
        "arm",
        "bodies",
        "body_bytes",
        "cache",
        "caller",
        "client",
        "deadline",
        "error",
        "extra",
        "forwarded",
        "headers",
        "held_bytes",
        "method",
        "model",
        "pod",
        "prefix",
        "probe",
        "raw_path",
        "receive",
        "request_id",
        "route",
        "scope",
        "send",
        "shadow",
        "started",
        "status",
        "traceparent",
        "upstream_seconds",
        "variant",
        "write_complete",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.started = started
        self.method: str = scope.get("method", "GET")
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._fields = dict(reversed(self.headers))  # the first of a name wins
        self.raw_path = paths.normalized(scope["raw_path"])
        self.request_id = b""
        self.traceparent = b""
        self.client = ""
        self.forwarded: list[str] = []
        self.deadline = 0.0
        self.admitted = False  # whether its credential was looked at and its limit counted
        self.caller: Caller | None = None
        self.arm = b""
        self.shadow = False
        self.probe = b""  # the mark of a request that the verifier makes; empty for users'
        self.route = "other"
        self.model = ""
        self.variant = ""
        self.pod = ""
        self.prefix = ""  # the stage prefix that was removed from the path
        self.cache = ""
        self.error = ""
        self.status = 0
        self.upstream_seconds = 0.0
        self.body_bytes = 0
        self.extra: list[tuple[bytes, bytes]] = []  # headers every answer to this one carries
        self.write_complete: WriteComplete | None = None
        self.bodies: Budget | None = None  # the memory that all bodies share
        self.held_bytes = 0  # what this one has of it, given back when the request ends

    def hold(self, size: int) -> None:
        """Count ``size`` bytes of a body, till the end; BusyError where none are left for it."""
        if self.bodies is not None:
            self.bodies.take(size, "the request's body")
            self.held_bytes += size

    def let_go(self) -> None:
        """Give back the memory of the body."""
        if self.bodies is not None and self.held_bytes:
            self.bodies.give(self.held_bytes)
            self.held_bytes = 0

    def check_headers(self) -> None:
        """BadHeadersError where they could be read in two ways."""
        version = self.scope.get("http_version", "1.1")
        if len(self._fields) != len(self.headers):  # a name comes more than once
            headers.check(self.headers, http_version=version)
        else:
            headers.check_once(self._fields, http_version=version)

    @property
    def caller_name(self) -> str:
        """Whom a request is counted for: its credential, else its address."""
        return self.caller.name if self.caller is not None else f"address:{self.client}"

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name (lower case)."""
        return self._fields.get(name)

    def joined(self, name: bytes) -> bytes | None:
        """Every header of that name (lower case) as the one list that they are together."""
        if len(self._fields) == len(self.headers):
            return self._fields.get(name)
        found = [value for key, value in self.headers if key == name]
        return b", ".join(found) if found else None

    def note(self, answer_headers: list[tuple[bytes, bytes]]) -> None:
        """Remember which model, variant and pod a backend said it was."""
        for name, value in answer_headers:
            if name == b"x-slipway-variant":
                self.variant = value.decode("latin-1")
            elif name == b"x-slipway-pod":
                self.pod = value.decode("latin-1")
