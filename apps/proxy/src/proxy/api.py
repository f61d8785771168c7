"""The JSON API for people and programs: `/v1`, its documentation, and the page."""

from __future__ import annotations

import asyncio
from importlib import resources
from time import monotonic
from typing import Annotated, Any

from fastapi import FastAPI, Header, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from kit.problem import MEDIA_TYPE, Problem
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from proxy.auth import forbidden
from proxy.context import Request
from proxy.forward import read_body
from proxy.models import HttpModel, ModelBackend
from proxy.predict import Prediction, media_type, predict, prepare, prepares_on_server
from proxy.sagemaker import SageMakerModel, loads
from proxy.services import Services
from proxy.v2 import asking_of

STATE_SECONDS = 2.0


class About(BaseModel):
    """Which build of which release answers."""

    service: str
    release: str
    revision: str
    pod: str


def current(request: HttpRequest) -> Request:
    """The proxy's own view of a request."""
    found: Request = request.scope["slipway"]
    return found


def allow(request: Request, action: str, thing: str) -> None:
    """Problem 403 where the caller's scopes do not cover this."""
    if request.caller is not None and not request.caller.may(action, thing):
        raise forbidden(request.caller, action, thing)


def create_api(services: Services) -> FastAPI:
    """The FastAPI application behind the gateway."""
    settings = services.settings
    app = FastAPI(
        title="Slipway proxy",
        description="Predictions, jobs, ensembles and pipelines over the models behind it.",
        version="1",
        docs_url=None,
        redoc_url=None,
    )
    page = resources.files("proxy").joinpath("page.html").read_text()

    @app.exception_handler(Problem)
    async def on_problem(http: HttpRequest, problem: Exception) -> Response:
        assert isinstance(problem, Problem)
        return problem_response(http, problem)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem_response(http, Problem(422, "bad-input", f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def on_http(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "bad-request")
        return problem_response(
            http,
            Problem(error.status_code, kind, str(error.detail), headers=error.headers or {}),
        )

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=PAGE_HEADERS)

    @app.get("/v1/about")
    async def about() -> About:
        """Which build answers; open to everybody."""
        return About(
            service="proxy",
            release=settings.release_name,
            revision=settings.source_revision,
            pod=settings.pod_name,
        )

    @app.get("/v1/models")
    async def models(http: HttpRequest) -> dict[str, Any]:
        """Every model, its state, and what it takes."""
        request = current(http)

        async def describe(name: str, backend: ModelBackend) -> dict[str, Any]:
            asking = asking_of(request)
            asking.deadline = min(asking.deadline, monotonic() + STATE_SECONDS)
            found: dict[str, Any] = {"name": name, "type": backend.settings.type}
            found |= await backend.state(asking)
            if found["state"] == "ready" and isinstance(backend, HttpModel):
                try:
                    contract = await backend.contract(asking)
                    found |= {"version": contract.version, **contract.document()}
                except Problem as problem:
                    found |= {"state": "unavailable", "reason": problem.detail}
            return found

        named = services.models.backends.items()
        return {"models": await asyncio.gather(*(describe(n, b) for n, b in named))}

    @app.post("/v1/predict/{model}")
    async def predict_one(
        http: HttpRequest,
        model: str,
        content_type: Annotated[str | None, Header()] = None,
    ) -> Any:
        """Predict from an image (PNG, JPEG, WebP), JSON or CSV."""
        request = current(http)
        allow(request, "predict", model)
        backend = services.models.choose(model, http.scope["query_string"], request.headers)
        request.model = backend.name
        kind = media_type(content_type)
        payload = await read_body(request, settings.max_body_bytes)
        asking = asking_of(request)
        try:
            if isinstance(backend, SageMakerModel):
                answer = await backend.invoke(payload, kind, "application/json", asking)
                request.variant = answer.headers.get("x-slipway-variant", "")
                return {
                    "model": model,
                    "variant": request.variant,
                    "result": loads(answer),
                    "request_id": request.request_id.decode(),
                }
            contract = await backend.contract(asking)
            prepared = await prepare(payload, kind, contract, on_server=prepares_on_server(backend))
            prediction = await predict(backend, contract, prepared, asking)
        finally:
            request.upstream_seconds += asking.upstream_seconds
        report(request, prediction)
        return prediction.document(request.request_id.decode())

    return app


PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def report(request: Request, prediction: Prediction) -> None:
    """Say in headers, log and metrics who made a prediction."""
    request.variant, request.pod = prediction.variant, prediction.pod
    for name, value in (
        (b"x-slipway-model", prediction.model),
        (b"x-slipway-model-version", prediction.version),
        (b"x-slipway-variant", prediction.variant),
        (b"x-slipway-pod", prediction.pod),
        (b"x-slipway-queue-ms", prediction.queue_ms),
        (b"x-slipway-compute-ms", prediction.compute_ms),
    ):
        if value:
            request.extra.append((name, value.encode("latin-1", "replace")))


def problem_response(http: HttpRequest, problem: Problem) -> Response:
    """A problem as FastAPI's answer."""
    request = current(http)
    request.error = problem.type
    return Response(
        problem.body(request_id=request.request_id.decode()),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )
