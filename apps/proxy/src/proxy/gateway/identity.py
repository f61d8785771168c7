"""Who a request is: its id, trace, client and deadline."""

from __future__ import annotations

import time

from kit.http.probe_header import PROBE, is_believed
from kit.http.problem import Problem
from kit.http.request_headers import (
    REQUEST_ID,
    REQUEST_TIMEOUT,
    TRACEPARENT,
    BadTimeoutError,
    is_shadow_host,
    request_id_of,
    trace_of,
)
from kit.telemetry import tracing
from proxy.http import deadline as deadlines
from proxy.http import headers, paths
from proxy.http.headers import BadHeadersError
from proxy.http.request import Request
from proxy.settings import ProxySettings

MOST_PARAMETERS = 256
"""Parameters of a query: each is read several times, by routes, rules and caches."""


class Identity:
    """Reads a request's identity from its headers."""

    def __init__(self, settings: ProxySettings, *, sampled: bool) -> None:
        """``sampled``: whether traces that begin here are recorded."""
        self._settings = settings
        self._sampled = sampled
        self._stages = [prefix.encode() for prefix in settings.stage_prefixes]
        self._probe_key = settings.probe_key.get_secret_value()

    def strip_stage(self, request: Request) -> None:
        """Take the prefix of the stage (such as `/dev`) off the request's path."""
        if self._stages:
            sent = request.raw_path
            request.raw_path = paths.without_stage(sent, self._stages)
            removed = len(sent) - len(request.raw_path)
            request.prefix = sent[:removed].decode("latin-1") if removed > 0 else ""

    def read(self, request: Request) -> None:
        """Its id, trace, client and deadline; Problem 400 for headers that are none."""
        settings = self._settings
        request.request_id = request_id_of(request.header(REQUEST_ID))
        request.traceparent = next_traceparent(request.header(TRACEPARENT), sampled=self._sampled)
        peer = request.scope.get("client") or ("", 0)
        request.client, request.forwarded = headers.client_address(
            peer[0], request.joined(b"x-forwarded-for"), settings.trusted_hops
        )
        if request.scope["query_string"].count(b"&") >= MOST_PARAMETERS and not (
            request.raw_path.startswith(b"/api/")  # not read here
        ):
            raise Problem(
                400,
                "bad-request",
                f"the query has more than {MOST_PARAMETERS} parameters: send fewer",
                headers={"connection": "close"},
            )
        try:
            request.check_headers()
            timeout = deadlines.parse(
                request.header(REQUEST_TIMEOUT),
                default=settings.timeout_seconds,
                longest=settings.max_timeout_seconds,
            )
        except BadHeadersError as error:
            raise Problem(400, "bad-request", str(error), headers={"connection": "close"}) from None
        except BadTimeoutError as error:
            raise Problem(400, "bad-timeout", str(error)) from None
        request.deadline = request.started + timeout
        request.shadow = is_shadow_host(request.header(b"host") or b"")
        probe = request.header(PROBE)
        if probe is not None and is_believed(probe, self._probe_key, time.time()):
            request.probe = probe


def next_traceparent(sent: bytes | None, *, sampled: bool) -> bytes:
    """The traceparent for the next hop: a child of the caller's trace, or a new one.

    ``sampled`` says whether a new one is recorded.
    """
    _, own = trace_of(sent)
    if own is not None:
        return own.traceparent().encode()
    flags = b"01" if sampled else b"00"
    return b"00-%b-%b-%b" % (tracing.random_hex.take(32), tracing.random_hex.take(16), flags)
