"""`/v1/ensembles` and `/v1/pipelines`: several models asked for one input."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from kit.oip.non_finite import HEADER as NON_FINITE
from proxy.gateway.api.answers import json_answer, unknown
from proxy.gateway.api.openapi import EXAMPLES, Composed
from proxy.gateway.api.payload import payload_of
from proxy.gateway.api.requests import ContentType, Name, current, owner_of
from proxy.gateway.infer_v2 import asking_of
from proxy.http.forward import watched
from proxy.http.request import Request
from proxy.policy.authentication import allow
from proxy.predictions import ensembles
from proxy.predictions.ensembles import Question
from proxy.predictions.inputs import media_type
from proxy.services import Services


def compositions_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["ensembles and pipelines"])
    settings = services.settings

    async def question_of(http: HttpRequest, content_type: str | None) -> tuple[Request, Question]:
        request = current(http)
        kind = media_type(content_type)
        payload = await payload_of(services, request)
        return request, Question(kind, payload, asking_of(request), owner_of(request))

    @router.post("/v1/ensembles/{name}", response_model=Composed, openapi_extra=EXAMPLES)
    async def ensemble(http: HttpRequest, name: Name, content_type: ContentType = None) -> Response:
        """Ask several models side by side and merge their answers."""
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


def composed(request: Request, answer: dict[str, Any]) -> Response:
    """The answer of several models; a header says what of it JSON cannot say."""
    if count := answer.get("non_finite"):
        request.extra.append((NON_FINITE, str(count).encode()))
    return json_answer({**answer, "request_id": request.request_id.decode()})
