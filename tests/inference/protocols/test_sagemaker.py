"""inference.protocols.sagemaker: /ping and /invocations in every content type, with real digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.inference import small_models
from tests.inference.conftest import Serve
from tests.trained import files_of, trained_digits
from trainer import digits, training

BINARY = "application/vnd.sagemaker-triton.binary+json"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> training.Trained:
    return training.Trained(*files_of(trained_digits(tmp_path_factory)))


async def test_a_digit_is_recognised_in_every_form(
    serve: Serve, repository: Path, trained: training.Trained
) -> None:
    trained.write(repository / "digits" / "1")
    _, held_out = digits.split()
    wanted, _ = training.predict(trained.onnx, held_out.pixels[:5])
    async with serve() as running:
        for row, label in zip(held_out.pixels[:5], wanted, strict=True):

            async def ask(body: bytes, media: str, accept: str = "") -> bytes:
                answer = await running.client.post(
                    "/invocations", content=body, headers={"content-type": media, "accept": accept}
                )
                assert answer.status_code == 200, answer.text
                return answer.content

            picture = json.loads(await ask(digits.png(row), "image/png"))["predictions"][0]
            assert (picture["label"], picture["class"]) == (label, str(label))
            assert picture["score"] == max(picture["probabilities"])
            line = ",".join(str(value) for value in row)
            out = (await ask(f"{line}\n{line}\n".encode(), "text/csv")).decode().splitlines()
            assert len(out) == 2
            assert out[0].split(",")[0] == str(label)
            octets = await ask(row.tobytes(), "application/octet-stream")
            assert np.frombuffer(octets[:8], np.int64)[0] == label
            for document in ([row.tolist()], {"instances": [row.tolist()]}):
                answer = json.loads(await ask(json.dumps(document).encode(), "application/json"))
                assert answer["predictions"][0]["label"] == label
            entry = {"name": "pixels", "datatype": "FP32", "shape": [1, 64]}
            v2 = {"inputs": [entry | {"data": row.tolist()}]}
            answer = json.loads(
                await ask(json.dumps(v2).encode(), "application/json; charset=utf-8")
            )
            assert answer["outputs"][0]["data"] == [label]
            parameters = {"binary_data_size": row.nbytes}
            head = json.dumps({"inputs": [entry | {"parameters": parameters}]}).encode()
            media = f"{BINARY};json-header-size={len(head)}"
            answer = json.loads(await ask(head + row.tobytes(), media))
            assert answer["outputs"][0]["data"] == [label]
            as_csv = await ask(digits.png(row), "image/png", "text/csv;q=1, application/json;q=0.1")
            assert as_csv.decode().split(",")[0] == str(label)


async def test_what_is_wrong_has_its_status(
    serve: Serve, repository: Path, trained: training.Trained
) -> None:
    trained.write(repository / "digits" / "1")
    cases = [
        ("image/png", b"no picture", 400, "image"),
        ("text/csv", b"1,2,3", 400, "CSV line 1 has 3 values"),
        ("text/csv", b"a" + b",1" * 63, 400, "is 'a': no FP32"),
        ("text/csv", b"", 400, "no lines"),
        ("text/csv", b"\xff\xfe", 400, "UTF-8"),
        ("application/octet-stream", b"123", 400, "a row of 'pixels' takes 256"),
        ("application/json", b"{", 400, "no JSON"),
        ("application/json", b"1", 400, "object or list"),
        ("application/xml", b"<a/>", 415, "application/xml"),
        (BINARY, b"{}", 400, "json-header-size"),
    ]
    async with serve() as running:
        for media, body, status, names in cases:
            answer = await running.client.post(
                "/invocations", content=body, headers={"content-type": media}
            )
            assert answer.status_code == status, (media, body, answer.text)
            assert names in answer.json()["error"]
        headers = {"content-type": "text/csv", "accept": "image/png"}
        row = ("0," * 64)[:-1].encode()
        refused = await running.client.post("/invocations", content=row, headers=headers)
        assert refused.status_code == 406
        assert (await running.client.get("/invocations")).status_code == 405
        assert running.state.engine.in_flight == 0


@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], ["n", 3, "w"], ["n", "h", "w"]])
async def test_csv_for_a_model_whose_rows_have_no_one_shape_is_a_400_that_says_so(
    serve: Serve, repository: Path, shape: list[str | int]
) -> None:
    """Found: two unknown sizes were left to numpy to guess, which refused: 500."""
    small_models.put(repository, "image", "1", small_models.identity("FP32", shape))
    async with serve() as running:
        answer = await running.client.post(
            "/invocations", content=b"1,2,3\n", headers={"content-type": "text/csv"}
        )
        assert answer.status_code == 400
        assert "input 'x' has shape" in answer.json()["error"]


async def test_which_model_is_asked(serve: Serve, repository: Path) -> None:
    small_models.put(repository, "one", "1", small_models.affine(1, 1))
    small_models.put(repository, "two", "1", small_models.affine(1, 2))
    body = json.dumps([[0, 0]]).encode()
    async with serve() as running:
        unclear = await running.client.post("/invocations", content=body)
        assert unclear.status_code == 404
        assert "INFERENCE_DEFAULT_MODEL" in unclear.json()["error"]
        named = await running.client.post(
            "/invocations", content=body, headers={"x-amzn-sagemaker-target-model": "two"}
        )
        assert named.json() == {"predictions": [[2.0, 2.0]]}
    async with serve(default_model="one") as running:
        answer = await running.client.post("/invocations", content=body)
        assert answer.json() == {"predictions": [[1.0, 1.0]]}
