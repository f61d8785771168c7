"""inference.protocols.v1: instances in, predictions out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.inference import small_models
from tests.inference.conftest import Serve


async def test_rows_in_predictions_out(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    small_models.put(repository, "two", "1", small_models.two_in_two_out())
    small_models.put(repository, "flat", "1", small_models.picky())
    async with serve() as running:
        post, get = running.client.post, running.client.get
        assert (await get("/v1/models")).json() == {"models": ["affine", "flat", "two"]}
        assert (await get("/v1/models/affine")).json() == {"name": "affine", "ready": True}
        assert (await get("/v1/models/none")).status_code == 404
        one = await post("/v1/models/affine:predict", json={"instances": [[1, 2], [3, 4]]})
        assert one.json() == {"predictions": [[3.0, 5.0], [7.0, 9.0]]}
        assert one.headers["x-slipway-model-version"] == "1"
        two = await post("/v1/models/two:predict", json={"instances": [{"a": [5, 5], "b": [1, 2]}]})
        assert two.json() == {"predictions": [{"sum": [6.0, 7.0], "difference": [4.0, 3.0]}]}
        columns = await post(
            "/v1/models/two:predict", json={"inputs": {"a": [[5, 5]], "b": [[1, 2]]}}
        )
        assert columns.json() == two.json()
        for instances in ([1, 4], [[1], [4]]):
            flat = await post("/v1/models/flat:predict", json={"instances": instances})
            assert flat.json() == {"predictions": [10.0, 40.0]}


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({}, "instances is missing"),
        ({"instances": []}, "at least one"),
        ({"instances": 1}, "must be a list"),
        ({"instances": [[1, 2]], "inputs": [[1, 2]]}, "both"),
        ({"instances": [[1, 2, 3]]}, "input 'x' has shape"),
        ({"instances": [[1, 2], [3]]}, "input 'x'"),
        ({"instances": [["a", "b"]]}, "input 'x'"),
        ({"instances": [{"q": [1, 2]}]}, "input 'q' is unknown"),
        ({"instances": [{"x": [1, 2]}, {"y": [1, 2]}]}, r"instances[1]"),
        ({"instances": [{"b64": "AAAA"}]}, "input 'x'"),
        ({"inputs": {"x": {"b64": 5}}}, "input 'x': b64 must be a list"),
        ({"inputs": {"x": {"b64": "AAAA"}}}, "input 'x': b64 must be a list"),
        ({"inputs": {"x": {"b64": [5]}}}, "input 'x': data[0]"),
        ([1], "must be a JSON object"),
    ],
)
async def test_what_is_wrong_is_named(
    serve: Serve, repository: Path, document: Any, names: str
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve() as running:
        answer = await running.client.post("/v1/models/affine:predict", json=document)
        assert answer.status_code == 400
        assert names in answer.json()["error"]
        assert running.state.engine.in_flight == 0


async def test_base64_images_are_prepared(serve: Serve, repository: Path) -> None:
    steps = [
        {"transform": "decode_image", "mode": "L"},
        {"transform": "scale"},
        {"transform": "reshape", "shape": [2]},
    ]
    small_models.put(repository, "seen", "1", small_models.affine(1, 0), preprocess=steps)
    picture = io.BytesIO()
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(picture, format="PNG")
    encoded = base64.b64encode(picture.getvalue()).decode()
    async with serve() as running:
        answer = await running.client.post(
            "/v1/models/seen:predict", json={"instances": [{"b64": encoded}, {"b64": encoded}]}
        )
        assert answer.json() == {"predictions": [[7.0, 200.0], [7.0, 200.0]]}
