"""The Open Inference Protocol as the proxy speaks it: passed on, and a few answers of its own."""

from __future__ import annotations

from time import monotonic
from typing import Any

import orjson

from kit.http.problem import Problem
from kit.version import version_of
from proxy.http import headers
from proxy.http.body import read_body
from proxy.http.forward import forward, watched
from proxy.http.paths import ModelPath
from proxy.http.propagation import carried
from proxy.http.request import Request
from proxy.models.backend import Asking, ModelBackend
from proxy.models.http import HttpModel
from proxy.predictions import infer_cache
from proxy.services import Services

ALLOWED = {
    "infer": frozenset({"POST"}),
    "generate": frozenset({"POST"}),
    "generate_stream": frozenset({"POST"}),
    "ready": frozenset({"GET", "HEAD"}),
    "config": frozenset({"GET", "HEAD"}),
    "stats": frozenset({"GET", "HEAD"}),
    "": frozenset({"GET", "HEAD"}),
}


def asking_of(request: Request) -> Asking:
    """A request's identity, as backends are asked with it."""
    return Asking(
        request.request_id,
        request.traceparent,
        request.deadline,
        request.arm,
        request.shadow,
        request.probe,
        request.caller_name,
        hold=request.hold,
        carried=carried(request.headers, request.scope["query_string"]),
    )


async def pass_on(
    services: Services, request: Request, backend: ModelBackend, path: ModelPath
) -> None:
    """A model's own paths, to its backend."""
    allowed = ALLOWED[path.verb]
    if request.method not in allowed:
        names = ", ".join(sorted(allowed))
        raise Problem(
            405, "method-not-allowed", f"this path takes {names}", headers={"allow": names}
        )
    settings = services.settings
    if isinstance(backend, HttpModel):
        policy = backend.cache
        # The verifier asks whether the model answers, not whether it once did.
        if (
            policy is not None
            and path.verb == "infer"
            and (request.probe or infer_cache.is_coded(request) or infer_cache.is_large(request))
        ):
            services.cache.count(backend.name, "bypass")
            request.cache = "bypass"
            request.extra.append((b"x-cache", b"bypass"))
        elif policy is not None and path.verb == "infer":
            await infer_cache.infer(
                request,
                services.cache,
                policy,
                backend,
                asking_of(request),
                rest=path.rest,
                limit=services.body_limit,
            )
            return
        query = request.scope["query_string"]
        target = b"".join(
            (b"/v2/models/", backend.remote.encode(), path.rest, b"?" + query if query else b"")
        )
        await forward(
            request,
            backend.destination,
            target,
            limit=services.body_limit,
            margin=settings.hop_margin_seconds,
            dropped=headers.DROPPED_WITH_CREDENTIALS,
            repeatable=True,  # a prediction changes nothing
            now=monotonic(),
            more=b"x-slipway-probe: %b\r\n" % request.probe if request.probe else b"",
            slowest=settings.upload_bytes_per_second,
        )
        return
    await _pass_on_invocation(request, backend, path, services.body_limit)


async def _pass_on_invocation(
    request: Request, backend: ModelBackend, path: ModelPath, limit: int
) -> None:
    asking = asking_of(request)
    if path.verb == "ready":
        state = await backend.state(asking)
        ready = state["state"] == "ready"
        await answer_json(request, 200 if ready else 503, {"name": backend.name, "ready": ready})
        return
    if path.verb != "infer":
        raise Problem(404, "not-found", f"{backend.name} is on SageMaker, which has only `infer`")
    body = await read_body(request, limit)
    content_type = (request.header(b"content-type") or b"application/json").decode("latin-1")
    length = request.header(b"inference-header-content-length")
    if length is not None:
        raise Problem(
            415, "unsupported-media-type", f"{backend.name} is on SageMaker: send JSON tensors"
        )
    with watched(request):
        answered = await backend.invoke(body, content_type, "application/json", asking)
    request.upstream_seconds += asking.upstream_seconds
    request.variant = answered.headers.get("x-slipway-variant", "")
    passed = [
        (name.encode(), value.encode("latin-1"))
        for name, value in answered.headers.items()
        if name.startswith("x-slipway-") or name == "content-type"
    ]
    passed.append((b"content-length", b"%d" % len(answered.body)))
    await request.send(
        {"type": "http.response.start", "status": answered.status, "headers": passed}
    )
    await request.send({"type": "http.response.body", "body": answered.body})


async def answer(services: Services, request: Request) -> None:
    """What the protocol asks of a server rather than of a model. Administration stays inside."""
    path = request.raw_path
    known: dict[bytes, Any] = {
        b"/v2": {
            "name": "slipway-proxy",
            "version": version_of("slipway-proxy", services.settings.source_revision),
            "extensions": ["binary_tensor_data"],
        },
        b"/v2/health/live": {"live": True},
        b"/v2/health/ready": {"ready": True},
    }
    document = known.get(path)
    if document is None:
        raise Problem(
            404,
            "not-found",
            "the proxy passes on /v2/models/{model}[/versions/{version}] with infer, ready, "
            "config or stats; loading and unloading models is not open to callers",
        )
    if request.method not in ("GET", "HEAD"):
        raise Problem(
            405, "method-not-allowed", "this path takes GET", headers={"allow": "GET, HEAD"}
        )
    await answer_json(request, 200, document)


async def answer_json(request: Request, status: int, document: Any) -> None:
    """Send a small JSON document."""
    body = orjson.dumps(document)
    await request.send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    await request.send(
        {"type": "http.response.body", "body": b"" if request.method == "HEAD" else body}
    )
