"""The JSON API for people and programs: `/v1`, its documentation, and the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from time import monotonic
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, FastAPI, Header, Path, Query, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from kit.http.problem import MEDIA_TYPE, Problem
from kit.http.protocol import EVENT_STREAM
from kit.oip.non_finite import HEADER as NON_FINITE
from proxy.config.backends import discovers
from proxy.config.settings import ProxySettings
from proxy.config.types import NAME
from proxy.gateway import pages
from proxy.gateway.body import check_form, payload_of
from proxy.gateway.infer_v2 import asking_of
from proxy.gateway.openapi import (
    EXAMPLES,
    JOB_STATES,
    PROBLEMS,
    About,
    Composed,
    Job,
    ModelList,
    Predicted,
    Reference,
    say_credentials,
)
from proxy.gateway.pages import OPEN_PATHS
from proxy.http.forward import watched
from proxy.http.propagation import carried
from proxy.http.request import Request
from proxy.jobs import callbacks
from proxy.jobs.queue import Submission
from proxy.models.backend import ModelBackend
from proxy.models.http import HttpModel
from proxy.policy.authentication import allow, unauthorized
from proxy.predictions import ensembles
from proxy.predictions.ensembles import Question
from proxy.predictions.inputs import media_type
from proxy.predictions.predictor import Outcome
from proxy.services import Services

STATE_SECONDS = 2.0
JOB_ID = r"^[0-9a-f]{32}$"

Name = Annotated[str, Path(pattern=NAME, examples=["digits"])]
JobId = Annotated[str, Path(json_schema_extra={"pattern": JOB_ID})]
Priority = Annotated[str, Query(pattern="^(high|normal|low)$")]
ContentType = Annotated[str | None, Header(include_in_schema=False)]


def current(request: HttpRequest) -> Request:
    """The proxy's own view of a request."""
    found: Request = request.scope["slipway"]
    return found


def owner_of(request: Request) -> str:
    """Whom jobs and prepared inputs belong to; empty where nobody is known.

    Problem 401 for a request that was not admitted: it is not the same as an unknown caller.
    """
    if not request.admitted:
        raise unauthorized("the request's credential was not checked", error="")
    return request.caller.name if request.caller is not None else ""


def create_api(services: Services) -> FastAPI:
    """The FastAPI application behind the gateway."""
    app = FastAPI(
        title="Slipway proxy",
        summary="Predictions, jobs, ensembles and pipelines over the models behind it.",
        version="1",
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
        strict_content_type=False,
    )
    routers = [
        pages.router(services.settings),
        _models(services),
        _predictions(services),
        _compositions(services),
        _jobs(services),
    ]
    _add_problems(app, [*app.routes, *(route for each in routers for route in each.routes)])
    for router in routers:
        app.include_router(router)
    _describe_credentials(app, services.settings)
    return app


def _describe_credentials(app: FastAPI, settings: ProxySettings) -> None:
    if not (settings.auth_required or settings.api_keys or settings.jwt):
        return
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            say_credentials(plain(), open_paths=OPEN_PATHS, needed=settings.auth_required)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _add_problems(app: FastAPI, routes: list[BaseRoute]) -> None:
    @app.exception_handler(Problem)
    async def on_problem(http: HttpRequest, problem: Exception) -> Response:
        assert isinstance(problem, Problem)
        return problem_response(http, problem)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem_response(http, Problem(400, "bad-input", f"{where}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def on_defect(http: HttpRequest, _: Exception) -> Response:
        # Starlette raises it again after the answer, and the gateway logs it.
        return problem_response(
            http, Problem(500, "internal", "the proxy failed; its log says why")
        )

    @app.exception_handler(HTTPException)
    async def on_http(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request")
        detail = f"{http.method} {http.url.path}: {error.detail}"
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:
            headers["allow"] = ", ".join(allowed_methods(routes, http.scope))
        return problem_response(http, Problem(error.status_code, kind, detail, headers=headers))


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> list[str]:
    """The methods of every route that has the path; Starlette names those of the first alone."""
    methods: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE:
            methods |= route.methods or set()
    if "GET" in methods and not scope["path"].endswith("/events"):
        methods.add("HEAD")
    return sorted(methods)


def _models(services: Services) -> APIRouter:
    router = APIRouter(tags=["models"])
    settings = services.settings

    @router.get("/v1/about")
    async def about() -> About:
        """Which build answers; open to everybody."""
        return About(
            service="proxy",
            release=settings.release_name,
            revision=settings.source_revision,
            pod=settings.pod_name,
        )

    @router.get("/v1/models", response_model=ModelList)
    async def models(http: HttpRequest) -> Response:
        """Every model, its state, and what it takes."""
        request = current(http)

        async def describe(name: str, backend: ModelBackend) -> dict[str, Any]:
            asking = asking_of(request)
            asking.deadline = min(asking.deadline, monotonic() + STATE_SECONDS)
            found: dict[str, Any] = {"name": name, "type": backend.settings.type}
            found |= await backend.state(asking)
            found["cache"] = isinstance(backend, HttpModel) and backend.settings.cache is not None
            if found["state"] == "ready" and isinstance(backend, HttpModel):
                try:
                    contract = await backend.contract(asking)
                    found |= {"version": contract.version, **contract.document()}
                except Problem as problem:
                    found |= {"state": "unavailable", "reason": problem.detail}
            return found

        named = [
            (name, backend)
            for name, backend in services.models.backends.items()
            if request.caller is None or request.caller.may("predict", name)
        ]
        started = monotonic()
        described = await asyncio.gather(*(describe(n, b) for n, b in named))
        request.upstream_seconds += monotonic() - started
        return json_answer(
            {
                "models": described,
                "ensembles": sorted(settings.ensembles),
                "pipelines": sorted(settings.pipelines),
                "jobs": bool(settings.redis_url),
            }
        )

    return router


def _predictions(services: Services) -> APIRouter:
    router = APIRouter(tags=["predictions"])

    async def predicted(http: HttpRequest, model: str, content_type: str | None) -> Response:
        request = current(http)
        allow(request, "predict", model)
        backend = await services.models.find_for(model, http.scope["query_string"], request.headers)
        request.model = backend.name
        kind = media_type(content_type)
        payload = await payload_of(services, request)
        asking = asking_of(request)
        try:
            with watched(request):
                outcome = await services.predictor.run(
                    backend,
                    kind,
                    payload,
                    asking,
                    owner=owner_of(request),
                    cache_control=request.header(b"cache-control") or b"",
                )
        finally:
            request.upstream_seconds += asking.upstream_seconds
        report(request, outcome)
        return json_answer({**outcome.document, "request_id": request.request_id.decode()})

    @router.post("/v1/predict/{model}", response_model=Predicted, openapi_extra=EXAMPLES)
    async def predict_by_path(
        http: HttpRequest, model: Name, content_type: ContentType = None
    ) -> Response:
        """Predict from an image (PNG, JPEG, WebP), JSON or CSV."""
        return await predicted(http, model, content_type)

    @router.post("/v1/predict", response_model=Predicted, openapi_extra=EXAMPLES)
    async def predict_by_parameter(
        http: HttpRequest,
        model: Annotated[str | None, Query(pattern=NAME, examples=["digits"])] = None,
        x_slipway_model: Annotated[str | None, Header(pattern=NAME)] = None,
        content_type: ContentType = None,
    ) -> Response:
        """The same, the model named by a query parameter or a header."""
        name = model or x_slipway_model
        if name is None:
            raise Problem(
                400, "bad-input", "name the model: `?model=…` or the header X-Slipway-Model"
            )
        return await predicted(http, name, content_type)

    @router.post(
        "/v1/data/{model}", response_model=Reference, status_code=201, openapi_extra=EXAMPLES
    )
    async def keep_input(
        http: HttpRequest, model: Name, content_type: ContentType = None
    ) -> Response:
        """Prepare an input once; predict from it as often as wanted: `{"reference": "…"}`."""
        request = current(http)
        allow(request, "predict", model)
        backend = await services.models.find_for(model, http.scope["query_string"], request.headers)
        request.model = backend.name
        kind = media_type(content_type)
        payload = await payload_of(services, request)
        asking = asking_of(request)
        return json_answer(
            await services.predictor.keep(backend, kind, payload, asking, owner_of(request)), 201
        )

    return router


def _compositions(services: Services) -> APIRouter:
    router = APIRouter(tags=["ensembles and pipelines"])
    settings = services.settings

    async def question_of(http: HttpRequest, content_type: str | None) -> tuple[Request, Question]:
        request = current(http)
        kind = media_type(content_type)
        payload = await payload_of(services, request)
        return request, Question(kind, payload, asking_of(request), owner_of(request))

    @router.post("/v1/ensembles/{name}", response_model=Composed, openapi_extra=EXAMPLES)
    async def ensemble(http: HttpRequest, name: Name, content_type: ContentType = None) -> Response:
        """Ask several models at once and merge what they say."""
        found = settings.ensembles.get(name)
        if found is None:
            raise unknown("ensemble", name, settings.ensembles)
        for member in found.members:
            allow(current(http), "predict", member.model)
        request, question = await question_of(http, content_type)
        request.model = name
        try:
            with watched(request):
                answer = await ensembles.ask_ensemble(
                    name, found, services.models, services.predictor, question
                )
        finally:
            request.upstream_seconds += question.asking.upstream_seconds
        return composed(request, answer)

    @router.post("/v1/pipelines/{name}", response_model=Composed, openapi_extra=EXAMPLES)
    async def pipeline(http: HttpRequest, name: Name, content_type: ContentType = None) -> Response:
        """Ask one model after another, each given what the one before said."""
        found = settings.pipelines.get(name)
        if found is None:
            raise unknown("pipeline", name, settings.pipelines)
        for step in found.steps:
            allow(current(http), "predict", step.model)
        request, question = await question_of(http, content_type)
        request.model = name
        try:
            with watched(request):
                answer = await ensembles.ask_pipeline(
                    name, found, services.models, services.predictor, question
                )
        finally:
            request.upstream_seconds += question.asking.upstream_seconds
        return composed(request, answer)

    return router


def _jobs(services: Services) -> APIRouter:
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
        """Predict later: answers 202 at once, with the job's address in `Location`."""
        request = current(http)
        allow(request, "jobs", model)
        backend = await services.models.find(model)
        request.model = model
        kind = media_type(content_type)
        if callback:
            callbacks.check(callback, settings.callbacks)
        if not discovers(backend.settings):  # workers look up a name that they do not know yet
            await services.jobs.check_known(model)
        kept = carried(request.headers, http.scope["query_string"]).dump()
        payload = await payload_of(services, request)
        check_form(payload, kind if isinstance(backend, HttpModel) else "")
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
        place = f"{request.prefix}/v1/jobs/{identity}"
        return json_answer(document, 202, {"location": place, "retry-after": "1"})

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


def unknown(kind: str, name: str, known: dict[str, Any]) -> Problem:
    """404 that names what there is."""
    names = ", ".join(sorted(known)) or "none"
    return Problem(404, f"unknown-{kind}", f"there is no {kind} {name!r}; there are: {names}")


def json_answer(
    document: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer, without FastAPI's walk over the document."""
    return Response(orjson.dumps(document), status, headers=headers, media_type="application/json")


def composed(request: Request, answer: dict[str, Any]) -> Response:
    """The answer of several models; a header says what of it JSON cannot say."""
    if count := answer.get("non_finite"):
        request.extra.append((NON_FINITE, str(count).encode()))
    return json_answer({**answer, "request_id": request.request_id.decode()})


def report(request: Request, outcome: Outcome) -> None:
    """Say in headers, log and metrics who made a prediction."""
    document = outcome.document
    request.variant, request.pod = outcome.variant, str(document.get("pod", ""))
    request.cache = outcome.cache
    for name, value in (
        (b"x-slipway-model", document.get("model")),
        (b"x-slipway-model-version", document.get("version")),
        (b"x-slipway-variant", document.get("variant")),
        (b"x-slipway-pod", document.get("pod")),
        (b"x-slipway-queue-ms", outcome.queue_ms),
        (b"x-slipway-compute-ms", outcome.compute_ms),
        (b"x-cache", outcome.cache),
        (NON_FINITE, document.get("non_finite")),
    ):
        if value:
            request.extra.append((name, str(value).encode("latin-1", "replace")))


def problem_response(http: HttpRequest, problem: Problem) -> Response:
    """A problem as FastAPI's answer."""
    request = current(http)
    request.error = problem.type
    return Response(
        problem.body(request_id=request.request_id.decode()),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={"cache-control": "no-store", **problem.headers},
    )
