"""What Triton's clients may ask for and this server does not do: refused by its name.

Names are Triton's: its "Parameters", "Shared-Memory", "Sequence", "Trace", "Logging" and
"Model Repository" extensions. A parameter with any other name is one that Triton hands to the
model; an ONNX model takes tensors alone, so it has no effect, here as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from inference.errors import BadRequest, NotServed, UnsupportedParameter
from kit.oip.integers import integer_of

SHARED_MEMORY = frozenset(
    ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
)
SEQUENCE = frozenset(("sequence_id", "sequence_start", "sequence_end"))
_NONE: tuple[object, ...] = (None, 0, "", False)
"""What clients send for a sequence they do not have."""

GRPC_METHODS = {
    "ModelStreamInfer": "streaming: call ModelInfer for each request",
    "SystemSharedMemoryStatus": "system shared memory: send the tensors in the request",
    "SystemSharedMemoryRegister": "system shared memory: send the tensors in the request",
    "SystemSharedMemoryUnregister": "system shared memory: send the tensors in the request",
    "CudaSharedMemoryStatus": "CUDA shared memory: send the tensors in the request",
    "CudaSharedMemoryRegister": "CUDA shared memory: send the tensors in the request",
    "CudaSharedMemoryUnregister": "CUDA shared memory: send the tensors in the request",
    "TraceSetting": "trace settings: set OTEL_EXPORTER_OTLP_ENDPOINT when the server is started",
    "LogSettings": "log settings: set INFERENCE_LOG_LEVEL when the server is started",
}
"""Methods of Triton's gRPC service that are not served, and what there is instead."""


def not_served(parts: list[str]) -> NotServed | None:
    """The error for a REST path, split at its slashes, of an extension that is not served."""
    match parts:
        case ["v2", "systemsharedmemory", *_]:
            method = "SystemSharedMemoryStatus"
        case ["v2", "cudasharedmemory", *_]:
            method = "CudaSharedMemoryStatus"
        case ["v2", "trace", "setting"] | ["v2", "models", _, "trace", "setting"]:
            method = "TraceSetting"
        case ["v2", "logging"]:
            method = "LogSettings"
        case ["v2", "models", _, "generate" | "generate_stream"] | [
            "v2", "models", _, "versions", _, "generate" | "generate_stream",
        ]:  # fmt: skip
            return NotServed("the generate extension is not served here: use …/infer")
        case _:
            return None
    return NotServed(said(method))


def said(method: str) -> str:
    """The message that refuses a gRPC method, or the REST path that does the same."""
    feature, _, instead = GRPC_METHODS[method].partition(": ")
    verb = "are" if feature.endswith("s") else "is"
    return f"{feature} {verb} not served here: {instead}"


def check_request(parameters: Mapping[str, Any]) -> None:
    """Refuse a request's parameters that ask for what is not done here.

    ``parameters`` are plain values. ``priority`` is accepted and has no effect, as in Triton for a
    model without priority levels.
    """
    for name, value in parameters.items():
        if name in SEQUENCE:
            if value not in _NONE:
                raise UnsupportedParameter(
                    f"parameters.{name}: sequences are not served here, each request stands alone"
                )
        elif name == "priority":
            if not _is_number(value):
                raise BadRequest(f"parameters.priority is {value!r}: it must be an integer")
        elif name.startswith("triton_") and value not in _NONE:
            raise UnsupportedParameter(f"parameters.{name} is not served here")


def check_tensor(kind: str, tensor: str, parameters: Iterable[str]) -> None:
    """Refuse a tensor in shared memory; ``kind`` is input or output."""
    if found := SHARED_MEMORY.intersection(parameters):
        raise UnsupportedParameter(
            f"{kind} {tensor!r}: {min(found)}: shared memory is not served here, send the "
            "tensor in the request"
            if kind == "input"
            else f"{kind} {tensor!r}: {min(found)}: shared memory is not served here, the tensor "
            "comes in the answer"
        )


def check_load(parameters: Any) -> None:
    """Refuse a load that brings a configuration or files with it: a model is what is stored."""
    if not isinstance(parameters, Mapping):
        raise BadRequest("parameters must be an object")
    if parameters:
        raise UnsupportedParameter(
            f"load: parameters.{str(min(parameters))[:100]} is not served here: a model is loaded "
            "as it lies in the repository, with its model.json"
        )


def check_unload(parameters: Any) -> None:
    """Refuse what an unload cannot do; no model depends on another here."""
    if not isinstance(parameters, Mapping):
        raise BadRequest("parameters must be an object")
    for name, value in parameters.items():
        if name != "unload_dependents":
            raise UnsupportedParameter(f"unload: parameters.{str(name)[:100]} is not served here")
        if type(value) is not bool:
            raise BadRequest("unload: parameters.unload_dependents must be true or false")


def check_repository(name: str) -> None:
    """Refuse the name of a repository: there is one, which has none."""
    if name:
        raise BadRequest(f"repository_name {name[:100]!r}: there is one repository, without a name")


def _is_number(value: Any) -> bool:
    if type(value) is str:
        return value.isascii() and value.isdigit()
    number = integer_of(value)
    return number is not None and number >= 0
