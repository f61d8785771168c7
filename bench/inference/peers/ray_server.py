"""Ray Serve with one replica."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["PYTHONPATH"] = str(Path(__file__).parent)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from common import load, predict
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Predictor:
    def __init__(self, folder: str) -> None:
        self.sessions = load(folder)

    async def __call__(self, request: Request) -> Any:
        document = await request.json()
        return {"outputs": [predict(self.sessions, document["inputs"][0])]}


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Predictor.bind(sys.argv[1]), route_prefix="/predict", name="predict")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()
