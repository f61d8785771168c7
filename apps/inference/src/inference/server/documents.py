"""What the server says of itself and its models, as JSON."""

from __future__ import annotations

from typing import Any

from inference.models import onnx_model
from inference.repository.layout import version_order
from inference.server import triton_config
from inference.server.state import ServerState

SERVER_NAME = "slipway-inference"
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
]


def server_metadata(state: ServerState) -> dict[str, Any]:
    """The protocol's server metadata."""
    return {
        "name": SERVER_NAME,
        "version": state.version,
        "extensions": EXTENSIONS,
        "properties": {
            "onnxruntime": onnx_model.VERSION,
            "revision": state.settings.source_revision or "unknown",
        },
    }


def model_metadata(state: ServerState, name: str, version: str | None) -> dict[str, Any]:
    """The protocol's model metadata; ``version`` is the one the tensors are those of."""
    served = state.registry.get(name, version)
    versions = sorted(state.registry.entries[name].serving, key=version_order)
    return served.metadata_document | {"versions": versions, "version": served.version}


def model_config(state: ServerState, name: str, version: str | None) -> dict[str, Any]:
    """The model configuration extension's answer."""
    return triton_config.document(state.registry.get(name, version), state.settings)


def statistics(state: ServerState, name: str = "", version: str | None = None) -> dict[str, Any]:
    """The statistics extension's answer."""
    return {
        "model_stats": [
            counted.document()
            for counted in state.registry.statistics
            if name in ("", counted.model) and version in (None, counted.version)
        ]
    }
