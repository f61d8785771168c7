"""What a request costs follows the work it asks for, not the bytes that say so."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.inference import small_models
from tests.inference.conftest import Serve, tensor

FORM = {"content-type": "application/json"}
PATHS = ("/v2/models/affine/infer", "/v1/models/affine:predict", "/invocations")


@pytest.mark.parametrize("path", PATHS)
async def test_objects_in_objects_are_refused_like_lists_in_lists(
    serve: Serve, repository: Path, path: str
) -> None:
    """Found: 1,000 of them were a 500 with a traceback in the log."""
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        body = b'{"a":' * 1000 + b"1" + b"}" * 1000
        answer = await running.client.post(path, content=body, headers=FORM)
        assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "given",
    [
        tensor("x" * 2_000_000, "FP32", [1, 2], [1, 2]),
        tensor("x", "F" * 2_000_000, [1, 2], [1, 2]),
        tensor("x", "FP32", [1] * 200_000, [1]),
    ],
    ids=["name", "datatype", "shape"],
)
async def test_an_error_quotes_the_beginning_of_what_was_sent(
    serve: Serve, repository: Path, given: dict[str, object]
) -> None:
    """Found: the answer, and each line of the log, was as large as the request."""
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        body = orjson.dumps({"inputs": [given]})
        answer = await running.client.post(PATHS[0], content=body, headers=FORM)
        assert answer.status_code == 400
        assert len(answer.content) < 5000
        assert "characters left out" in answer.json()["error"]
