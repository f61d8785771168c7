"""The REST surface as an OpenAPI document: for people, for clients, and for the tests' fuzzing."""

from __future__ import annotations

from typing import Any

from inference.repository.layout import NAME
from kit.oip.datatypes import NUMPY

Schema = dict[str, Any]


def document(version: str) -> Schema:
    """OpenAPI 3.1 of every path the server answers."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Slipway inference",
            "version": version,
            "description": "Open Inference Protocol v2, its extensions, V1 and SageMaker's.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas()},
    }


def _paths() -> Schema:
    model = [_parameter("model")]
    versioned = [*model, _parameter("version")]
    paths: Schema = {
        "/livez": {"get": _probe("Alive")},
        "/readyz": {"get": _probe("Ready, or why not", 503)},
        "/": {"get": _probe("Alive (KServe V1)")},
        "/v2": {"get": _get("The server")},
        "/v2/health/live": {"get": _probe("Alive")},
        "/v2/health/ready": {"get": _probe("Every model is ready", 503)},
        "/v2/models/stats": {"get": _get("Statistics of every model")},
        "/v2/repository/index": {
            "post": _post("Models in the repository", "IndexRequest", 413, 503)
        },
        "/v2/repository/models/{model}/load": {
            "parameters": model,
            "post": _post("Load or reload a model", "LoadRequest", 403, 404, 413, 503),
        },
        "/v2/repository/models/{model}/unload": {
            "parameters": model,
            "post": _post("Unload a model", "UnloadRequest", 403, 404, 413),
        },
        "/v1/models": {"get": _get("Names of the models")},
        "/v1/models/{model}": {"parameters": model, "get": _get("A model's state", 404, 503)},
        "/v1/models/{model}:predict": {
            "parameters": model,
            "post": _post("Predict rows", "PredictRequest", *_INFER),
        },
        "/ping": {"get": _probe("Ready (SageMaker)", 503)},
        "/invocations": {"post": _invocations()},
    }
    for prefix, parameters in (
        ("/v2/models/{model}", model),
        ("/v2/models/{model}/versions/{version}", versioned),
    ):
        paths |= {
            prefix: {"parameters": parameters, "get": _get("Inputs and outputs", 404, 503)},
            f"{prefix}/config": {
                "parameters": parameters,
                "get": _get("The model's configuration, as Triton gives it", 404, 503),
            },
            f"{prefix}/ready": {"parameters": parameters, "get": _get("Ready", 404, 503)},
            f"{prefix}/stats": {"parameters": parameters, "get": _get("Statistics", 404, 503)},
            f"{prefix}/infer": {
                "parameters": [*parameters, *_CALL_HEADERS],
                "post": _post("Predict", "InferRequest", *_INFER),
            },
        }
    return paths


_INFER = (404, 413, 415, 429, 500, 503, 504)
_CALL_HEADERS = [
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds, or a number with us, ms, s, m or h.",
        "schema": {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,3})?(us|ms|s|m|h)?$"},
    },
    {"name": "X-Request-Id", "in": "header", "schema": {"type": "string", "maxLength": 128}},
]


def _parameter(name: str) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": NAME.pattern},
    }


def _answers(*errors: int) -> Schema:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": "Error", "content": error} for status in errors}


def _ok() -> Schema:
    return {"200": {"description": "OK", "content": {"application/json": {}}}}


def _get(summary: str, *errors: int) -> Schema:
    return {"summary": summary, "responses": _ok() | _answers(*errors)}


def _probe(summary: str, *statuses: int) -> Schema:
    other = {
        str(status): {"description": "Not so", "content": {"application/json": {}}}
        for status in statuses
    }
    return {"summary": summary, "responses": _ok() | other}


def _post(summary: str, schema: str, *errors: int) -> Schema:
    answers = _ok()
    if schema == "InferRequest":
        answers["200"]["content"]["application/octet-stream"] = {}
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {
        "summary": summary,
        "requestBody": {
            "required": schema in ("InferRequest", "PredictRequest"),
            "content": content,
        },
        "responses": answers | _answers(400, 408, *errors),
    }


def _invocations() -> Schema:
    operation = _post("Predict (SageMaker)", "PredictRequest", *_INFER, 406)
    operation["requestBody"]["content"] |= {
        "text/csv": {"schema": {"type": "string", "minLength": 1}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    operation["responses"]["200"]["content"] |= {"text/csv": {}, "application/octet-stream": {}}
    return operation


def _schemas() -> Schema:
    parameters = {"type": "object"}
    return {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "string"}},
            "additionalProperties": False,
        },
        "LoadRequest": {
            "type": "object",
            "properties": {"parameters": {"type": "object", "maxProperties": 0}},
        },
        "UnloadRequest": {
            "type": "object",
            "properties": {
                "parameters": {
                    "type": "object",
                    "properties": {"unload_dependents": {"type": "boolean"}},
                    "additionalProperties": False,
                }
            },
        },
        "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "PredictRequest": {
            "type": "object",
            "required": ["instances"],
            "properties": {"instances": {"type": "array", "minItems": 1}},
        },
        "Tensor": {
            "type": "object",
            "required": ["name", "datatype", "shape"],
            "properties": {
                "name": {"type": "string"},
                "datatype": {"enum": sorted(NUMPY)},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "array"},
                "parameters": {
                    "type": "object",
                    "properties": {
                        "binary_data_size": {"type": "integer", "minimum": 0},
                        "content_type": {"type": "string"},
                    },
                },
            },
        },
        "RequestedOutput": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string"},
                "parameters": {
                    "type": "object",
                    "properties": {
                        "binary_data": {"type": "boolean"},
                        "classification": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
                    },
                },
            },
        },
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string", "maxLength": 1024},
                "parameters": parameters
                | {
                    "properties": {
                        "timeout": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
                        "priority": {"type": "integer", "minimum": 0, "maximum": 2**53},
                        "binary_data_output": {"type": "boolean"},
                    }
                },
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"$ref": "#/components/schemas/Tensor"},
                },
                "outputs": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/RequestedOutput"},
                },
            },
        },
    }
