"""One rule for request ids at every path of the server."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from inference.fast_infer import FastProtocol
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor

ROW = tensor("x", "FP32", [1, 2], [1, 2])


@pytest.mark.parametrize(("sent", "kept"), [("job-17", True), ("job 17", False), ("a,b", False)])
async def test_an_id_is_kept_by_one_rule(
    serve: Serve, repository: Path, sent: str, kept: bool
) -> None:
    """Found: `job 17` was kept in a 200 and replaced in a 429 of the same server."""
    small_models.put(repository, "affine", "1", small_models.affine())
    headers = {"x-request-id": sent}
    async with serve() as running:
        for path in ("/v2/models/affine/infer", "/v2/models/affine/infer?a=1"):
            answer = await running.client.post(path, json={"inputs": [ROW]}, headers=headers)
            assert answer.status_code == 200
            assert (answer.headers["x-request-id"] == sent) == kept
    outcomes = types.SimpleNamespace(count_refused=lambda served, loop: None)
    engine = types.SimpleNamespace(outcomes=outcomes)
    state = types.SimpleNamespace(identity_lines=b"", engine=engine)
    paths = types.SimpleNamespace(served_at=lambda path: None)
    protocol: Any = types.SimpleNamespace(state=state, paths=paths, loop=None)
    request = b"POST /x HTTP/1.1\r\nX-Request-Id: %b\r\ncontent-length: 0\r\n\r\n" % sent.encode()
    refused = FastProtocol.refusal(protocol, request)
    assert (b"x-request-id: %b\r\n" % sent.encode() in refused) == kept
