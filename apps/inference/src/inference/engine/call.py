"""A request on its way and its answer, whatever the protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kit.http.request_headers import trace_of
from kit.oip.tensors import Array
from kit.telemetry import tracing
from kit.telemetry.tracing import TraceContext

HangUp = Callable[[], Awaitable[None]]


class Call:
    """A request under way. ``hang_up`` returns when its caller is gone; times are monotonic."""

    __slots__ = ("arrived", "caller", "hang_up", "held", "mirrored", "probe", "protocol",
                 "request_id", "started", "timeout", "trace")  # fmt: skip

    def __init__(self, protocol: str, started: float, request_id: str = "") -> None:
        self.protocol = protocol
        self.started = started
        self.arrived = 0.0
        self.request_id = request_id
        self.caller: TraceContext | None = None
        self.trace: TraceContext | None = None
        self.mirrored = False
        self.probe = False
        self.timeout: float | None = None
        self.hang_up: HangUp | None = None
        self.held = 0  # bytes of its body, out of the memory that all bodies share

    def follow(self, traceparent: bytes | None, *, starts: bool) -> None:
        """Go on with the caller's trace; where there is none, start one if ``starts`` says so."""
        self.caller, self.trace = trace_of(traceparent)
        if self.trace is None and starts:
            self.trace = tracing.new_trace(sampled=True)


class Answer:
    """Outputs in order, and where the time went, in seconds."""

    __slots__ = ("compute", "decode", "finished", "outputs", "queue")

    def __init__(
        self,
        outputs: dict[str, Array],
        *,
        decode: float,
        queue: float,
        compute: float,
        finished: float,
    ) -> None:
        self.outputs = outputs
        self.decode = decode
        self.queue = queue
        self.compute = compute
        self.finished = finished
