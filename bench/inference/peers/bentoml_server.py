"""`bentoml serve` with one worker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

here = Path(__file__).parent
environment = {
    **os.environ, "BENCH_MODELS": sys.argv[1], "BENTOML_DO_NOT_TRACK": "true",
    "PYTHONPATH": str(here), "BENTOML_HOME": str(Path.cwd() / "bentoml"),
}  # fmt: skip
program = str(Path(sys.executable).with_name("bentoml"))
os.execve(
    program,
    [program, "serve", "bentoml_service:Predictor", "--working-dir", str(here),
     "--host", "127.0.0.1", "--port", sys.argv[2]],
    environment,
)  # fmt: skip
