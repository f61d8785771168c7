"""`/v1/jobs`: predictions that are answered later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Path, Query, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from kit.http.problem import Problem
from kit.http.protocol import EVENT_STREAM
from proxy.config.backends import discovers
from proxy.gateway.api.answers import json_answer
from proxy.gateway.api.openapi import EXAMPLES, JOB_STATES, Job
from proxy.gateway.api.payload import check_form, payload_of
from proxy.gateway.api.requests import ContentType, Name, current, owner_of
from proxy.http.propagation import carried
from proxy.jobs import callback_urls
from proxy.jobs.queue import Submission
from proxy.policy.authentication import allow
from proxy.predictions.inputs import media_type
from proxy.services import Services

JOB_ID = r"^[0-9a-f]{32}$"
JobId = Annotated[str, Path(json_schema_extra={"pattern": JOB_ID})]
Priority = Annotated[str, Query(pattern="^(high|normal|low)$")]


def jobs_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["jobs"])
    settings = services.settings

    @router.post("/v1/jobs/{model}", response_model=Job, status_code=202, openapi_extra=EXAMPLES)
    async def submit(
        http: HttpRequest,
        model: Name,
        *,
        priority: Priority = "normal",
        callback: Annotated[
            str, Query(max_length=2048, json_schema_extra={"pattern": r"^(https?://[!-~]+)?$"})
        ] = "",
        seconds: Annotated[float | None, Query(gt=0, le=604800)] = None,
        idempotency_key: Annotated[str, Header(max_length=255, pattern=r"^[!-~]*$")] = "",
        content_type: ContentType = None,
    ) -> Response:
        """Predict later: answers 202 immediately, with the job's address in `Location`."""
        request = current(http)
        allow(request, "jobs", model)
        backend = await services.models.find(model)
        request.model = model
        kind = media_type(content_type)
        if callback:
            callback_urls.check(callback, settings.callbacks)
        if not discovers(backend.settings):  # workers look up a name that they do not know yet
            await services.jobs.check_known(model)
        kept = carried(request.headers, http.scope["query_string"]).dump()
        payload = await payload_of(services, request)
        check_form(payload, kind if backend.has_contract else "")
        identity, new = await services.jobs.submit(
            Submission(
                model=model,
                content_type=kind,
                payload=payload,
                owner=owner_of(request),
                priority=priority,
                seconds=seconds or settings.jobs.deadline_seconds,
                request_id=request.request_id.decode(),
                traceparent=request.traceparent.decode(),
                callback=callback,
                idempotency_key=idempotency_key,
                query=http.scope["query_string"].decode("latin-1"),
                headers=kept,
                arm=request.arm.decode(),
            )
        )
        document: dict[str, Any] = {"id": identity, "model": model, "state": "queued"}
        if not new:
            document = await services.jobs.get(identity, owner_of(request), request.hold)
        address = f"{request.prefix}/v1/jobs/{identity}"
        return json_answer(document, 202, {"location": address, "retry-after": "1"})

    @router.get("/v1/jobs/{identity}", response_model=Job)
    async def look(http: HttpRequest, identity: JobId) -> Response:
        """A job's state, and its result once it has succeeded."""
        request = current(http)
        document = await services.jobs.get(identity, owner_of(request), request.hold)
        waiting = document["state"] in JOB_STATES[:2]
        return json_answer(document, 200, {"retry-after": "1"} if waiting else {})

    @router.delete("/v1/jobs/{identity}", response_model=Job)
    async def cancel(http: HttpRequest, identity: JobId) -> Response:
        """Cancel a job that has not ended."""
        request = current(http)
        return json_answer(await services.jobs.cancel(identity, owner_of(request), request.hold))

    @router.get(
        "/v1/jobs/{identity}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def events(http: HttpRequest, identity: JobId) -> Response:
        """The job at every change until it ends, as server-sent events named `job`."""
        request = current(http)
        followed = services.jobs.follow(identity, owner_of(request), request.hold)
        first = await anext(followed)  # a job that is not there is a 404, not an empty stream
        http.scope[EVENT_STREAM] = True

        async def stream() -> AsyncIterator[bytes]:
            try:
                yield event(first)
                async for document in followed:
                    yield event(document)
            except Problem as problem:
                yield b"event: problem\ndata: " + problem.body() + b"\n\n"
            finally:
                await followed.aclose()  # type: ignore[attr-defined]

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    return router


def event(document: dict[str, Any] | None) -> bytes:
    """A job's document as a server-sent event; None as a comment that keeps the stream alive."""
    if document is None:
        return b": still here\n\n"
    return b"event: job\ndata: " + orjson.dumps(document) + b"\n\n"
