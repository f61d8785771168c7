"""The floor: an ASGI handler around session.run and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import orjson
import uvicorn
from common import load

SESSIONS = load(sys.argv[1])


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    tensor = orjson.loads(body)["inputs"][0]
    values = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    (output,) = SESSIONS[values.shape[1]].run(None, {tensor["name"]: values})
    document = {
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": output.shape,
             "data": output.reshape(-1)}
        ]
    }  # fmt: skip
    answer = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(
    app, port=int(sys.argv[2]), loop="uvloop", http="httptools", lifespan="off", access_log=False,
    log_level="error",
)  # fmt: skip
