"""BentoML's service; the server beside it starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import bentoml
from common import load, predict


@bentoml.service(workers=1, traffic={"timeout": 60})
class Predictor:
    def __init__(self) -> None:
        self.sessions = load(os.environ["BENCH_MODELS"])

    @bentoml.api
    def predict(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"outputs": [predict(self.sessions, inputs[0])]}
