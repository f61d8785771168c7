"""A request of HTTP and its answer, on top of ASGI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from inference.engine.call import Call
from inference.errors import MethodNotAllowed, NotFound
from inference.server.bodies import Headers, hung_up


@dataclass(slots=True)
class Exchange:
    """One request on its way through the slower routes: ASGI's three parts and what was read."""

    scope: Scope
    receive: Receive
    send: Send
    headers: dict[bytes, bytes]
    call: Call

    @property
    def method(self) -> str:
        """GET, POST and so on."""
        return str(self.scope["method"])

    def need(self, allowed: str) -> None:
        """MethodNotAllowed unless the method is the allowed one (HEAD goes for GET)."""
        if self.method != allowed and not (allowed == "GET" and self.method == "HEAD"):
            allow = "GET, HEAD" if allowed == "GET" else allowed
            raise MethodNotAllowed(f"{self.method} is not allowed here, {allow} is", allow)

    def no_such_path(self) -> NotFound:
        """The error for a path that leads nowhere."""
        return NotFound(f"no such path: {self.scope['path']}")

    async def hung_up(self) -> None:
        """Returns when the caller is gone; the body must have been read."""
        await hung_up(self.receive)

    async def json(self, document: Any, status: int = 200) -> None:
        """Answer with JSON."""
        body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", self.call.request_id.encode()),
        ]
        await respond(self.send, status, headers, body)


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """One answer, in one piece."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def accepts(accept: str, offered: Sequence[str]) -> str | None:
    """The first of ``offered`` that an Accept header allows, by its weights; None for none."""
    if not accept.strip():
        return offered[0]
    weights: dict[str, float] = {}
    for part in accept.split(","):
        media, *options = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for option in options:
            if option.startswith("q="):
                try:
                    weight = float(option[2:])
                except ValueError:
                    weight = 0.0
        weights[media.lower()] = weight

    def weight_of(media: str) -> float:
        for pattern in (media, media.split("/", maxsplit=1)[0] + "/*", "*/*"):
            if pattern in weights:
                return weights[pattern]
        return 0.0

    best = max(offered, key=weight_of)
    return best if weight_of(best) > 0 else None


def json_bytes(document: Any) -> bytes:
    """JSON with numpy arrays in it."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
