"""The model configuration extension: a model in the form of Triton's ModelConfig.

Only fields that are true of a model here are given; the rest of Triton's message is left out.
Source: Triton, "Model Configuration Extension" and model_config.proto.
"""

from __future__ import annotations

from typing import Any

from inference.models.served import ServedModel
from inference.repository.manifest import MODEL_FILE, TensorSpec
from inference.settings import InferenceSettings


def document(served: ServedModel, settings: InferenceSettings) -> dict[str, Any]:
    """The configuration as JSON; where rows are batched, ``dims`` are without the rows."""
    batching = served.manifest.batching
    config: dict[str, Any] = {
        "name": served.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [_tensor(spec, served) for spec in served.model.inputs],
        "output": [_tensor(spec, served) for spec in served.model.outputs],
        "instance_group": [
            {
                "name": served.name,
                "kind": "KIND_CPU",
                "count": batching.instances or settings.instances,
            }
        ],
        "default_model_filename": MODEL_FILE,
    }
    if served.batched:
        config["max_batch_size"] = served.max_batch_size
        config["dynamic_batching"] = _dynamic_batching(served, settings)
    return config


def _dynamic_batching(served: ServedModel, settings: InferenceSettings) -> dict[str, Any]:
    batching = served.manifest.batching
    delay = batching.max_queue_delay_ms
    delay = settings.max_queue_delay_ms if delay is None else delay
    seconds = min(settings.default_timeout_seconds, settings.max_timeout_seconds)
    described: dict[str, Any] = {
        "default_queue_policy": {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": round(seconds * 1e6),
            "allow_timeout_override": True,
            "max_queue_size": batching.max_queue_size or settings.max_queue_size,
        }
    }
    if delay != "auto":  # a learned delay has no number to give
        described["max_queue_delay_microseconds"] = round(delay * 1000)
    return described


def _tensor(spec: TensorSpec, served: ServedModel) -> dict[str, Any]:
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = spec.shape[1:] if served.batched else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(dims)}
