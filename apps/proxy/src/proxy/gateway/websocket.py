"""WebSockets passed through to `/api/` upstreams, message by message, in both directions."""

from __future__ import annotations

import asyncio
from time import monotonic

import aiohttp

from kit.http.problem import Problem
from kit.http.server import LARGEST_WEBSOCKET_MESSAGE
from proxy.http import headers
from proxy.http.request import Request
from proxy.services import Services

_HANDSHAKE = frozenset(
    {
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"sec-websocket-accept",
    }
)


async def pass_websocket(services: Services, request: Request, key: str, rest: bytes) -> None:
    """Connect to the upstream, accept the caller, and carry messages until one side closes.

    The upstream is asked first, so a caller is only accepted by somebody who is there.
    """
    upstream = services.settings.upstreams[key]
    destination = services.upstreams[key]
    caller = request.caller_name
    if not destination.concurrency.enter(caller):
        raise destination.concurrency.refusal(f"api/{key}")
    try:
        query = request.scope["query_string"]
        url = upstream.url + rest.decode() + ("?" + query.decode("latin-1") if query else "")
        dropped = (
            headers.DROPPED
            if upstream.forward_authorization
            else (headers.DROPPED_WITH_CREDENTIALS)
        )
        passed = {
            name.decode(): value.decode("latin-1")
            for name, value in headers.passable(request.headers, dropped | _HANDSHAKE)
        }
        passed["x-request-id"] = request.request_id.decode()
        passed["traceparent"] = request.traceparent.decode()
        passed["x-forwarded-for"] = ", ".join(request.forwarded)
        try:
            connection = await services.session.ws_connect(
                url,
                headers=passed,
                protocols=request.scope.get("subprotocols") or (),
                max_msg_size=LARGEST_WEBSOCKET_MESSAGE + 1,  # aiohttp refuses one of just that size
                autoping=True,
                heartbeat=30.0,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise Problem(
                502, "upstream-refused", f"{key} refused the WebSocket with {error.status}"
            ) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Problem(503, "upstream-unreachable", f"{key} cannot be reached") from error
        try:
            await _carry(request, connection, upstream.idle_seconds)
        finally:
            await connection.close()
    finally:
        destination.concurrency.leave(caller)


async def _carry(
    request: Request, upstream: aiohttp.ClientWebSocketResponse, idle_seconds: float
) -> None:
    """Carry messages until one side closes, or none was sent for ``idle_seconds``.

    Pings are no messages: they say that a connection is there, not that anybody wants it.
    """
    moved = monotonic()

    message = await request.receive()
    if message["type"] != "websocket.connect":
        return
    request.status = 101
    accept = {"type": "websocket.accept", "headers": [(b"x-request-id", request.request_id)]}
    if upstream.protocol:
        accept["subprotocol"] = upstream.protocol
    await request.send(accept)

    async def to_upstream() -> None:
        nonlocal moved
        while True:
            event = await request.receive()
            moved = monotonic()
            if event["type"] == "websocket.disconnect":
                await upstream.close(code=_sendable(event.get("code", 1000)))
                return
            if event.get("text") is not None:
                await upstream.send_str(event["text"])
            else:
                await upstream.send_bytes(event["bytes"])

    async def to_caller() -> None:
        nonlocal moved
        async for event in upstream:
            moved = monotonic()
            if event.type == aiohttp.WSMsgType.TEXT:
                await request.send({"type": "websocket.send", "text": event.data})
            elif event.type == aiohttp.WSMsgType.BINARY:
                await request.send({"type": "websocket.send", "bytes": event.data})
            else:
                break
        code = _sendable(upstream.close_code or 1011)
        await request.send({"type": "websocket.close", "code": code})

    tasks = {asyncio.create_task(to_upstream()), asyncio.create_task(to_caller())}
    try:
        done: set[asyncio.Task[None]] = set()
        while not done and (left := moved + idle_seconds - monotonic()) > 0:
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            request.error = "websocket-idle"
            await request.send(
                {
                    "type": "websocket.close",
                    "code": 1001,
                    "reason": f"no message for {idle_seconds:g} s",
                }
            )
        for task in done:
            if (error := task.exception()) is not None and not isinstance(
                error, ConnectionError | aiohttp.ClientError | RuntimeError
            ):
                raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _sendable(code: int) -> int:
    """A close code that may stand in a frame (RFC 6455 section 7.4)."""
    return code if code in range(1000, 1004) or code in range(1007, 1015) or code >= 3000 else 1011
