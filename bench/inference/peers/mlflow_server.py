"""`mlflow models serve` with one worker and a pyfunc around session.run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

here = Path(__file__).parent
sys.path.insert(0, str(here))
os.environ["PYTHONPATH"] = str(here)

import mlflow  # noqa: E402 - it reads the variable above


class Predictor(mlflow.pyfunc.PythonModel):
    def load_context(self, context: Any) -> None:
        from common import load

        self.sessions = load(os.environ["BENCH_MODELS"])

    def predict(self, context, model_input, params=None):
        import numpy as np

        values = np.asarray(model_input, dtype=np.float32)
        (output,) = self.sessions[values.shape[1]].run(None, {"input": values})
        return output


if __name__ == "__main__":
    target = Path.cwd() / "mlflow-model"
    if not target.exists():
        mlflow.pyfunc.save_model(str(target), python_model=Predictor(), pip_requirements=[])
    program = str(Path(sys.executable).with_name("mlflow"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.execve(
        program,
        [program, "models", "serve", "-m", str(target), "--env-manager", "local",
         "--host", "127.0.0.1", "--port", sys.argv[2], "--workers", "1"],
        {**os.environ, "BENCH_MODELS": sys.argv[1], "PATH": path},
    )  # fmt: skip
