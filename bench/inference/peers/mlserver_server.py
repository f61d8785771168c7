"""MLServer with a runtime of its own around session.run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from common import session_of
from mlserver import MLModel, MLServer
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self._session = session_of(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        values = np.array(tensor.data.root, dtype=np.float32).reshape(tensor.shape)
        (output,) = self._session.run(None, {"input": values})
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(
                    name="probabilities", datatype="FP32", shape=list(output.shape),
                    data=output.ravel().tolist(),
                )
            ],
        )  # fmt: skip


async def main(paths: list[Path]) -> None:
    port = int(sys.argv[2])
    server = MLServer(
        Settings(
            debug=False, host="127.0.0.1", http_port=port, grpc_port=port + 1,
            metrics_endpoint=None, parallel_workers=0, load_models_at_startup=False,
        )
    )  # fmt: skip
    models = [
        ModelSettings(
            name=path.parents[1].name, implementation=OnnxModel,
            parameters=ModelParameters(uri=str(path)),
        )
        for path in paths
    ]  # fmt: skip
    await server.start(models)


if __name__ == "__main__":
    asyncio.run(main(sorted(Path(sys.argv[1]).glob("*/1/model.onnx"))))
