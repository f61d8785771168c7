"""Problems as answers of the gateway."""

from __future__ import annotations

from starlette.types import Message, Scope, Send

from kit.http.problem import MEDIA_TYPE, Problem
from proxy.http.request import Request


async def send_problem(request: Request, problem: Problem) -> None:
    """Answer a request with a problem document."""
    if request.raw_path.startswith(b"/v2"):
        problem.extra.setdefault("error", problem.detail)  # where the protocol's clients look
    body = problem.body(request_id=request.request_id.decode())
    start: Message = {
        "type": "http.response.start",
        "status": problem.status,
        "headers": [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        ],
    }
    await request.send(start)
    await request.send({"type": "http.response.body", "body": body})


async def refuse_websocket(send: Send, scope: Scope, problem: Problem, request_id: str) -> None:
    """Refuse a handshake with an HTTP answer where the server can send one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": problem.detail[:120]})
        return
    body = problem.body(request_id=request_id)
    await send(
        {
            "type": "websocket.http.response.start",
            "status": problem.status,
            "headers": [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id.encode()),
            ],
        }
    )
    await send({"type": "websocket.http.response.body", "body": body})
