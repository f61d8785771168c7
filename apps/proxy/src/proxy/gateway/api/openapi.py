"""What the API's documentation says beside its code: models of the answers, and examples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kit.http.problem import MEDIA_TYPE

JOB_STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")

ROW = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0, 0, 4, 12, 0]
ROW += [0, 8, 8, 0, 0, 5, 8, 0, 0, 9, 8, 0, 0, 4, 11, 0, 1, 12, 7, 0, 0, 2, 14, 5, 10, 12, 0, 0]
ROW += [0, 0, 6, 13, 10, 0, 0, 0]


class About(BaseModel):
    """Which build of which release answers."""

    service: str
    release: str
    revision: str
    pod: str


class ModelState(BaseModel):
    """A model, whether it can be asked, and what it takes."""

    model_config = ConfigDict(extra="allow")

    name: str
    type: Literal["http", "sagemaker"]
    state: Literal["ready", "unavailable"]
    reason: str = ""
    version: str = ""
    labels: list[str] = Field(default_factory=list)
    takes_images: bool = False
    cache: bool = False


class ModelList(BaseModel):
    """Everything there is to ask."""

    models: list[ModelState]
    ensembles: list[str]
    pipelines: list[str]
    jobs: bool


class Predicted(BaseModel):
    """A prediction; several rows are under `predictions`, bare outputs under `outputs`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "model": "digits",
                "version": "1",
                "variant": "inference",
                "pod": "inference-6d5f9c7c4b-x2x7k",
                "label": "7",
                "probability": 0.98,
                "probabilities": {"1": 0.02, "7": 0.98},
                "request_id": "0af7651916cd43dd8448eb211c80319c",
            }
        },
    )

    model: str
    version: str
    variant: str
    pod: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float | None] | None = None
    predictions: list[dict[str, Any]] | None = None
    request_id: str


class Composed(BaseModel):
    """What an ensemble or a pipeline answers."""

    model_config = ConfigDict(extra="allow")

    request_id: str


class Reference(BaseModel):
    """A prepared input that is kept for a while."""

    reference: str
    model: str
    rows: int
    expires_in_seconds: float


class Job(BaseModel):
    """A job. Times are seconds since 1970."""

    model_config = ConfigDict(extra="allow")

    id: str
    model: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
    priority: str | None = None
    progress: float | None = None
    attempts: int | None = None
    created: float | None = None
    deadline: float | None = None
    started: float | None = None
    finished: float | None = None
    detail: str | None = None
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `type` is explained in the documentation of problems."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:slipway:problem:unknown-model"])
    title: str
    status: int
    detail: str
    request_id: str | None = None


_PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "The request cannot be served as it is; `detail` says what to change.",
        "model": ProblemDocument,
        "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
    },
    "5XX": {
        "description": "A backend failed, is busy or too slow; `Retry-After` says when to return.",
        "model": ProblemDocument,
        "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
    },
}

API_KEY, BEARER = "apiKey", "bearer"


def say_credentials(document: dict[str, Any], *, open_paths: frozenset[str], needed: bool) -> None:
    """Add to an OpenAPI document which credentials its operations take.

    ``needed`` says whether one must be sent to all but ``open_paths``, or only may be.
    """
    document.setdefault("components", {})["securitySchemes"] = {
        API_KEY: {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        BEARER: {"type": "http", "scheme": "bearer"},
    }
    either: list[dict[str, list[str]]] = [{API_KEY: []}, {BEARER: []}]
    for path, operations in document["paths"].items():
        if path not in open_paths:
            for operation in operations.values():
                operation["security"] = either if needed else [*either, {}]


EXAMPLES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": ["object", "array"]},
                "examples": {
                    "rows": {
                        "summary": "A handwritten zero, 8 x 8 shades from 0 to 16",
                        "value": {"instances": [ROW]},
                    },
                    "protocol": {
                        "summary": "As in the Open Inference Protocol",
                        "value": {
                            "inputs": [
                                {
                                    "name": "pixels",
                                    "datatype": "FP32",
                                    "shape": [1, 64],
                                    "data": ROW,
                                }
                            ]
                        },
                    },
                },
            },
            "text/csv": {
                "schema": {"type": "string", "minLength": 1},
                "example": ",".join(map(str, ROW)) + "\n",
            },
            "text/plain": {"schema": {"type": "string", "minLength": 1}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "image/webp": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
