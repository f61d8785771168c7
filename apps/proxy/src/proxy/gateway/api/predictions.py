"""`/v1/predict` and `/v1/data`: one model asked, now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi import Request as HttpRequest

from kit.http.problem import Problem
from kit.oip.non_finite import HEADER as NON_FINITE
from proxy.config.types import NAME
from proxy.gateway.api.answers import json_answer
from proxy.gateway.api.openapi import EXAMPLES, Predicted, Reference
from proxy.gateway.api.payload import payload_of
from proxy.gateway.api.requests import ContentType, Name, current, owner_of
from proxy.gateway.infer_v2 import asking_of
from proxy.http.forward import watched
from proxy.http.request import Request
from proxy.policy.authentication import allow
from proxy.predictions.inputs import media_type
from proxy.predictions.predictor import Outcome
from proxy.services import Services


def predictions_router(services: Services) -> APIRouter:
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
