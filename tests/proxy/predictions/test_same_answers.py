"""The proxy and the model server take the same inputs, and refuse the same ones.

A real model server behind a real proxy: what one says of an input, the other says.
"""

from __future__ import annotations

import base64
import io
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference.protocols import v1
from inference.protocols.rest_v2 import build
from inference.repository.manifest import TensorSpec
from kit.oip.errors import BadTensorError
from kit.oip.rows import is_protocol
from proxy.models import tensors
from proxy.models.metadata import Contract, Tensor
from tests.inference import small_models
from tests.inference.conftest import Running, serving
from tests.proxy.conftest import Proxy, proxy_with

CASES = Path(__file__).parents[2] / "fixtures" / "oip"
JSON, CSV, TEXT = "application/json", "text/csv", "text/plain"


@dataclass
class Both:
    """A model server, and a proxy in front of it."""

    server: Running
    proxy: Proxy

    async def at_proxy(self, model: str, kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        async with self.proxy.session.post(
            f"{self.proxy.url}/v1/predict/{model}", data=body, headers={"content-type": kind}
        ) as answer:
            return answer.status, await answer.json()

    async def at_server(self, model: str, kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """SageMaker's path, which takes every form."""
        headers = {"content-type": kind, "x-amzn-sagemaker-target-model": model,
                   "accept": JSON}  # fmt: skip
        answer = await self.server.client.post("/invocations", content=body, headers=headers)
        return answer.status_code, answer.json()


MODELS = {
    "i64": (CASES / "i64.onnx").read_bytes(),
    "scalar": (CASES / "scalar.onnx").read_bytes(),
    "four": small_models.identity("FP32", ["rows", 4]),
    "half": small_models.identity("FP16"),
    "text": small_models.identity("BYTES", ["rows", 1]),
    "texts": small_models.identity("BYTES", ["rows"]),
    "two": small_models.two_in_two_out(),
    "beside": small_models.weights_beside_rows(),
    "places": small_models.places(),
}


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    for name, model in MODELS.items():
        small_models.put(tmp_path, name, "1", model)
    async with serving(str(tmp_path)) as server:
        backends = {name: {"type": "http", "url": server.url} for name in MODELS}
        async with proxy_with(backends=backends) as proxy:
            yield Both(server, proxy)


async def test_whole_numbers_of_a_csv_arrive_as_sent(both: Both) -> None:
    """Found: read as floats, 9007199254740993 arrived as ...992."""
    body = (CASES / "int64.csv").read_bytes()
    status, found = await both.at_proxy("i64", CSV, body)
    assert (status, found["outputs"]) == (200, {"y": [9007199254740993, 1]}), found
    status, found = await both.at_server("i64", CSV, body)
    assert (status, found["predictions"]) == (200, [[9007199254740993, 1]])
    document = orjson.dumps({"instances": [[9007199254740993, 1]]})
    assert (await both.at_proxy("i64", JSON, document))[1]["outputs"]["y"][0] == 9007199254740993


async def test_a_number_beyond_its_datatype_is_400_at_both(both: Both) -> None:
    """Found: the proxy sent infinity, and the model answered with 200."""
    body = (CASES / "fp32_overflow.json").read_bytes()
    for ask in (both.at_proxy, both.at_server):
        status, found = await ask("four", JSON, body)
        said = found.get("detail") or found.get("error")
        assert status == 400
        assert "data[0] is 1e+39: out of range for FP32" in said


async def test_a_scalar_is_answered(both: Both) -> None:
    """Found: 500, and no problem document."""
    body = (CASES / "scalar.json").read_bytes()
    status, found = await both.at_proxy("scalar", JSON, body)
    assert status == 200, found
    assert list(found["outputs"].values()) == [-3.0]
    assert (await both.at_proxy("scalar", CSV, b"3\n"))[1]["outputs"] == found["outputs"]


@pytest.mark.parametrize("rows", [1, 2, 3])
async def test_outputs_of_other_lengths_than_the_rows_are_given_complete(
    both: Both, rows: int
) -> None:
    """Found: with two weights beside them the third of three rows was gone, with status 200."""
    given = [[float(row), row + 0.5] for row in range(rows)]
    everything: dict[str, Any] = {"y": given, "weights": [5.0, 6.0]}
    status, found = await both.at_proxy("beside", JSON, orjson.dumps(given))
    assert (status, found["outputs"], "predictions" in found) == (200, everything, False)
    status, found = await both.at_server("beside", JSON, orjson.dumps(given))
    assert (status, found["predictions"]) == (200, [everything])
    answer = await both.server.client.post(
        "/invocations", content=orjson.dumps(given),
        headers={"content-type": JSON, "accept": CSV,
                 "x-amzn-sagemaker-target-model": "beside"},
    )  # fmt: skip
    cells = [*np.ravel(given).tolist(), 5.0, 6.0]
    assert answer.text == ",".join(map(str, cells)) + "\n", "a line holds a row, or everything"


@pytest.mark.parametrize("rows", [1, 2, 3])
async def test_positions_of_what_was_found_are_no_rows(both: Both, rows: int) -> None:
    """Found: two lines of positions were two predictions, and with two rows one for each."""
    status, found = await both.at_proxy("places", JSON, orjson.dumps([[0.0, 1.0]] * rows))
    assert (status, found["outputs"]) == (200, {"y": [list(range(rows)), [1] * rows]})


async def test_texts_are_taken_in_every_form(both: Both) -> None:
    for model, shaped in (("text", [["안녕"]]), ("texts", ["안녕"])):
        entry = {"name": "x", "datatype": "BYTES", "shape": np.shape(shaped), "data": shaped}
        for kind, body in (
            (JSON, orjson.dumps({"instances": shaped})),
            (JSON, orjson.dumps(["안녕"])),
            (JSON, orjson.dumps({"inputs": [entry]})),
            (CSV, "안녕\r\n".encode()),
            (TEXT, "안녕".encode()),
        ):
            status, found = await both.at_proxy(model, kind, body)
            assert status == 200, found
            assert found["outputs"]["y"] in ("안녕", ["안녕"])
    status, found = await both.at_proxy("four", TEXT, b"1,2,3,4")
    assert (status, "'x' is FP32" in found["detail"]) == (400, True)


async def test_a_csv_with_a_header_names_the_inputs(both: Both, tmp_path: Path) -> None:
    body = b"1,2,3,4\n5,6,7,8\n"
    status, found = await both.at_proxy("four", CSV, body)
    assert (status, len(found["predictions"])) == (200, 2)
    for kind, status in ((CSV, 400), (f"{CSV}; header=present", 200)):
        assert (await both.at_proxy("four", kind, b"a,b,c,d\n" + body))[0] == status
        assert (await both.at_server("four", kind, b"a,b,c,d\n" + body))[0] == status


PIXELS: list[dict[str, Any]] = [
    {"transform": "decode_image", "mode": "L"}, {"transform": "resize", "width": 2, "height": 2},
    {"transform": "scale", "factor": 1.0}, {"transform": "reshape", "shape": [4]},
]  # fmt: skip


def square(shade: int) -> str:
    """A small picture of one shade, in base64."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("prepared_by", ["proxy", "server"])
async def test_pictures_in_json_are_pictures_at_both(tmp_path: Path, prepared_by: str) -> None:
    """Found: the proxy said that the input is FP32 and got BYTES."""
    model = small_models.identity("FP32", ["rows", 4])
    small_models.put(tmp_path, "pixels", "1", model, preprocess=PIXELS)
    rows = {"instances": [{"b64": square(10)}, {"b64": square(200)}]}
    named = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2],
                         "data": [square(10), square(200)]}]}  # fmt: skip
    async with serving(str(tmp_path)) as server:
        backend = {"type": "http", "url": server.url, "prepare": prepared_by}
        async with proxy_with(backends={"pixels": backend}) as proxy:
            both = Both(server, proxy)
            for document in (rows, named):
                body = orjson.dumps(document)
                status, found = await both.at_proxy("pixels", JSON, body)
                assert status == 200, found
                shown = [next(iter(each["outputs"].values())) for each in found["predictions"]]
                assert shown == [[10.0] * 4, [200.0] * 4]
                assert (await both.at_server("pixels", JSON, body))[0] == 200
            body = orjson.dumps({"instances": [{"b64": square(10)}, {"b64": "AAAA"}]})
            assert (await both.at_proxy("pixels", JSON, body))[0] == 400
            assert (await both.at_server("pixels", JSON, body))[0] == 400


def protocol(**change: Any) -> bytes:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    return orjson.dumps({"inputs": [entry | change]})


WRONG: dict[str, tuple[str, str, bytes]] = {
    "unknown name": ("four", JSON, protocol(name="y")),
    "unknown name of rows": ("four", JSON, b'{"inputs": {"y": [[1, 2, 3, 4]]}}'),
    "the same name twice": ("four", JSON, orjson.dumps({"inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}] * 2})),
    "a missing input": ("two", JSON, b'{"inputs": {"a": [[1, 2]]}}'),
    "another number of rows": ("two", JSON, b'{"inputs": {"a": [[1, 2]], "b": [[1, 2], [3, 4]]}}'),
    "another datatype": ("four", JSON, protocol(datatype="INT64")),
    "no datatype": ("four", JSON, protocol(datatype=None)),
    "a free dimension": ("four", JSON, protocol(shape=[-1, 4])),
    "a shape of fractions": ("four", JSON, protocol(shape=[1.5, 4])),
    "too few elements": ("four", JSON, protocol(data=[1, 2, 3])),
    "too many elements": ("four", JSON, protocol(data=[1, 2, 3, 4, 5])),
    "text among numbers": ("four", JSON, protocol(data=["2", 4.9, 1, 1])),
    "true among numbers": ("four", JSON, protocol(data=[True, 4.9, 1, 1])),
    "a fraction for whole numbers": ("i64", JSON, b"[[1.5, 2]]"),
    "numbers for text": ("texts", JSON, b"[1, 2]"),
    "ragged": ("four", JSON, b"[[1, 2, 3, 4], [1, 2, 3]]"),
    "a half's limit": ("half", JSON, b"[[70000, 1]]"),
    "NaN in a CSV": ("four", CSV, b"1,2,3,nan\n"),
    "infinity in a CSV": ("four", CSV, b"1,2,3,inf\n"),
    "a gap in a CSV": ("four", CSV, b",2,3,4\n5,6,7,8\n"),
    "a number too large in a CSV": ("four", CSV, b"1,2,3,1e39\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_400_with_one_message(both: Both, case: str) -> None:
    model, kind, body = WRONG[case]
    at_proxy, at_server = await both.at_proxy(model, kind, body), await both.at_server(*WRONG[case])
    assert (at_proxy[0], at_server[0]) == (400, 400), (at_proxy, at_server)
    assert at_proxy[1]["detail"] == f"{model}: {at_server[1]['error']}"


INPUTS = {
    "FP32": [-1, 2], "INT64": [-1], "BYTES": [-1, 1], "BOOL": [2, 2], "FP64": [], "UINT8": [-1, -1],
}  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", 1]),
        "datatype": st.sampled_from([*INPUTS, "FP16", "XX", None]),
        "shape": st.lists(st.integers(-1, 3), max_size=3) | values,
        "data": st.lists(values, max_size=6) | st.lists(st.floats(width=32), max_size=6) | values,
    },
)
documents = (
    values
    | st.fixed_dictionaries({"instances": values})
    | st.fixed_dictionaries({"inputs": st.lists(entries, max_size=2)})
    | st.fixed_dictionaries({"inputs": st.dictionaries(st.sampled_from(["x", "y"]), values)})
)


@given(documents, st.sampled_from(list(INPUTS)))
def test_any_json_is_the_same_tensor_or_the_same_refusal(document: Any, datatype: str) -> None:
    body = orjson.dumps(_sendable(document))
    shape = INPUTS[datatype]
    contract = Contract("m", "1", (Tensor("x", datatype, tuple(shape)),), ())
    served: Any = types.SimpleNamespace(
        name="m", inputs={"x": TensorSpec(name="x", datatype=datatype, shape=shape)},
        takes_images=False, batched=bool(shape) and shape[0] < 0, variable_shapes=False,
        output_names=(), outputs_known=frozenset(),
    )  # fmt: skip

    def at_server() -> Any:
        sent = orjson.loads(body)
        if isinstance(sent, dict) and is_protocol(sent):
            return build(sent, memoryview(b""), served).feeds["x"]
        return v1.read_instances(sent, served).feeds["x"]

    outcomes = []
    for read in (lambda: tensors.from_json(body, contract)["x"], at_server):
        try:
            array = read()
            outcomes.append((array.dtype, array.shape, array.tolist()))
        except BadTensorError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if not isinstance(outcomes[0], str) and datatype.startswith("FP"):
        assert np.isfinite(outcomes[0][2]).all()


def _sendable(value: Any) -> Any:
    """The value as JSON can carry it: whole numbers of at most 64 bits."""
    if isinstance(value, dict):
        return {key: _sendable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_sendable(part) for part in value]
    too_large = type(value) is int and not -(2**63) <= value < 2**64
    return float(value) if too_large else value
