"""`/v1/models` and `/v1/about`: what is behind the proxy, and which build it is."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from kit.http.problem import Problem
from proxy.gateway.api.answers import json_answer
from proxy.gateway.api.openapi import About, ModelList
from proxy.gateway.api.requests import current
from proxy.gateway.infer_v2 import asking_of
from proxy.models.backend import ModelBackend
from proxy.services import Services

STATE_SECONDS = 2.0


def models_router(services: Services) -> APIRouter:
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
            found["cache"] = backend.cache is not None
            if found["state"] == "ready" and backend.has_contract:
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
