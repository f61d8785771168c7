"""What a route past the proxy saves: a real model server asked straight, and through the proxy.

This is the proxy's own share. What Istio's sidecars and gateway add to either way is measured on
the cluster by `make bench-routing`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.proxy.load import added
from bench.proxy.programs import own
from bench.proxy.servers import OTHER_CORE, SERVER_CORE, free_port, ours_environment, started

RATE = 200


def measure(folder: Path, redis_port: int, *, rounds: int, seconds: float) -> dict[str, float]:
    """Latency of one digit at ``RATE`` requests a second, both ways, and the proxy's CPU."""
    models = folder / "models"
    subprocess.run(
        [own("trainer"), "train", "--to", str(models / "digits" / "1"), "--hidden", "16"],
        check=True, capture_output=True,
    )  # fmt: skip
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":"))
    port = free_port()
    environment = {
        "INFERENCE_HOST": "127.0.0.1",
        "INFERENCE_PORT": str(port),
        "INFERENCE_MODEL_REPOSITORY": str(models),
        "INFERENCE_GRPC_ENABLED": "false",
    }
    with started("inference", port, [own("inference"), "serve"], core=OTHER_CORE,
                 log=folder / "inference.log", probe=body, **environment) as inference:  # fmt: skip
        port = free_port()
        ours = ours_environment(port, inference.url, redis_port, cache=False)
        with started("ours", port, [own("proxy"), "serve"], core=SERVER_CORE,
                     log=folder / "past.log", probe=body, **ours) as proxy:  # fmt: skip
            before = proxy.cpu_seconds()
            row = added(proxy, inference, body, RATE, folder, rounds=rounds, seconds=seconds)
            used = proxy.cpu_seconds() - before
    row["proxy_cpu_seconds_per_1000"] = round(used / (RATE * seconds * rounds) * 1000, 3)
    return row
