"""The protocol's datatypes, numpy's and ONNX's, one beside the other.

Source: Open Inference Protocol v2, "Tensor Data Types". BF16 has no numpy type that ONNX
Runtime takes, so a model with such an input or output is refused when it is loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}

_ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_BY_DTYPE = {(dtype.kind, dtype.itemsize): name for name, dtype in NUMPY.items()}


def from_onnx(kind: str) -> str | None:
    """The protocol's name for ONNX Runtime's ``tensor(float)`` and the like, or None."""
    return _ONNX.get(kind)


def of_array(dtype: np.dtype[Any]) -> str:
    """The protocol's name for an array's dtype; numpy's text types are BYTES."""
    if dtype.kind in "US":
        return "BYTES"
    return _BY_DTYPE[dtype.kind, dtype.itemsize]
