"""The JSON API for people and programs put together: `/v1`, its documentation, and the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from kit.http.problem import Problem
from proxy.gateway.api import pages
from proxy.gateway.api.answers import problem_response
from proxy.gateway.api.compositions import compositions_router
from proxy.gateway.api.jobs import jobs_router
from proxy.gateway.api.models import models_router
from proxy.gateway.api.openapi import PROBLEMS, say_credentials
from proxy.gateway.api.pages import OPEN_PATHS
from proxy.gateway.api.predictions import predictions_router
from proxy.services import Services
from proxy.settings import ProxySettings


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
        redirect_slashes=False,  # Starlette would name the Host of the caller, without the prefix
    )
    routers = [
        pages.router(services.settings),
        models_router(services),
        predictions_router(services),
        compositions_router(services),
        jobs_router(services),
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
