"""LitServe with one worker."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import litserve
from common import load, predict


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.sessions = load(sys.argv[1])

    def decode_request(self, request):
        return request["inputs"][0]

    def predict(self, tensor: Any) -> Any:
        return predict(self.sessions, tensor)

    def encode_response(self, output: Any) -> Any:
        return {"outputs": [output]}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False,
        log_level="error", access_log=False,
    )  # fmt: skip
