"""KServe's Python server with one worker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import session_of
from kserve import InferOutput, InferResponse, Model, ModelServer


class OnnxModel(Model):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self._session = session_of(path)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        values = payload.inputs[0].as_numpy()
        (output,) = self._session.run(None, {"input": values})
        result = InferOutput("probabilities", list(output.shape), "FP32", output.ravel().tolist())
        return InferResponse(payload.id or "0", self.name, [result])


if __name__ == "__main__":
    models = [
        OnnxModel(path.parents[1].name, path)
        for path in sorted(Path(sys.argv[1]).glob("*/1/model.onnx"))
    ]
    port = int(sys.argv[2])
    ModelServer(
        http_port=port,
        enable_grpc=False,
        workers=1,
        access_log_format=None,
        enable_latency_logging=False,
    ).start(models)
