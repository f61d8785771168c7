"""The part that is the same for every peer: the sessions, with our server's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


def load(folder: str) -> dict[int, Any]:
    """The sessions by the number of features they take, which tells a request's model."""
    return {
        session.get_inputs()[0].shape[1]: session
        for session in map(session_of, sorted(Path(folder).glob("*/1/model.onnx")))
    }


def session_of(path: Path | str) -> Any:
    """One thread, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def predict(sessions: dict[int, Any], tensor: dict[str, Any]) -> dict[str, Any]:
    """A protocol input in, a protocol output out."""
    values = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    (output,) = sessions[values.shape[1]].run(None, {"input": values})
    return {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": list(output.shape),
        "data": output.ravel().tolist(),
    }
