"""What every model behind the proxy offers, wherever it is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from proxy.config.backends import Backend, CachePolicy
from proxy.http.propagation import NOTHING, Carried
from proxy.models.metadata import Contract


@dataclass(slots=True)
class Asking:
    """Whose question it is: carried to the backend, and reported."""

    request_id: bytes
    traceparent: bytes
    deadline: float
    arm: bytes = b""
    shadow: bool = False
    probe: bytes = b""
    """The mark of the verifier's request, once believed."""
    caller: str = ""
    upstream_seconds: float = 0.0
    hold: Callable[[int], None] = lambda _: None
    """Gets the bytes of an answer that are in memory; BusyError where there is no room."""
    carried: Carried = NOTHING
    """The caller's headers and query: predictions take them along, for routes that look at them."""


@dataclass(slots=True)
class Answer:
    """What a backend said: status, headers with lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float = field(default=0.0)


class ModelBackend(Protocol):
    """Where one model is served."""

    name: str
    has_contract: bool
    """Whether it publishes what it takes: it is asked with tensors, else in the caller's form."""
    cache: CachePolicy | None
    prepares_images: bool
    """Whether its server makes tensors of images itself."""

    @property
    def settings(self) -> Backend:
        """What was configured."""
        ...

    async def contract(self, asking: Asking) -> Contract:
        """What the model takes; a recent one may be answered from memory."""
        ...

    async def infer(self, body: bytes, json_length: int | None, asking: Asking) -> Answer:
        """An infer request of the Open Inference Protocol."""
        ...

    async def invoke(self, body: bytes, content_type: str, accept: str, asking: Asking) -> Answer:
        """A request in the caller's own form, for a server that prepares its inputs itself."""
        ...

    async def state(self, asking: Asking) -> dict[str, str]:
        """``state`` (ready, unavailable) and what is known beside it."""
        ...

    def breakers(self) -> list[tuple[str, str]]:
        """Address and breaker state."""
        ...

    def in_flight(self) -> int:
        """Requests under way."""
        ...

    def sweep(self) -> None:
        """Drop idle connections."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...
