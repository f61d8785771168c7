"""Predictions: what may be sent, who is asked, and what is said of what does not suit."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from kit.http.problem import Problem
from kit.oip.datatypes import NUMPY
from kit.oip.errors import BadAnswerError, BadTensorError
from kit.oip.messages import decode_answer, encode_request, pack
from proxy.config.backends import Rule
from proxy.models import metadata as contracts
from proxy.models import tensors
from proxy.models.metadata import Tensor
from proxy.models.registry import fits
from proxy.predictions.inputs import Prepared
from tests.proxy.conftest import METADATA, Neighbour, Proxy, proxy_with
from tests.proxy.test_app import png

JSON = {"content-type": "application/json"}
CONTRACT = contracts.parse(METADATA, name="digits", max_pixels=1_000_000)
ROOT = Path(__file__).parents[3]


@pytest.fixture
async def proxy(model: Neighbour, upstream: Neighbour, redis_url: str) -> AsyncIterator[Proxy]:
    for path, handler in model.handlers.items():
        upstream.on(path, handler)
    async with proxy_with(
        backends={
            "digits": {"type": "http", "url": model.url},
            "large": {"type": "http", "url": upstream.url, "model": "digits"},
            "raw": {"type": "http", "url": model.url, "model": "digits", "prepare": "server"},
        },
        rules=[
            {"model": "digits", "backend": "large", "query": {"size": "large"}},
            {"model": "digits", "backend": "large", "headers": {"X-Tier": "gold"}},
            {"model": "digits", "backend": "large", "query": {"any": "*", "b": "2"}},
        ],
        redis_url=redis_url,
        redis_prefix=f"test-{uuid.uuid4().hex[:8]}",
        max_image_pixels=100_000,
    ) as found:
        yield found


async def ask(proxy: Proxy, path: str, data: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    async with proxy.session.post(proxy.url + path, data=data, headers=headers) as answer:
        return answer.status, await answer.json()


ROW = [1.0] * 64
ROWS = orjson.dumps({"instances": [ROW]})
FORMS: dict[str, tuple[str, bytes]] = {
    "instances": ("application/json", ROWS),
    "a list of rows": ("application/json; charset=utf-8", orjson.dumps([ROW])),
    "a single row": ("application/json", orjson.dumps(ROW)),
    "by name": ("application/json", orjson.dumps({"inputs": {"pixels": [ROW]}})),
    "as in the protocol": (
        "application/json",
        orjson.dumps(
            {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": ROW}]}
        ),
    ),
    "CSV": ("text/csv", b",".join([b"1"] * 64)),
    "CSV with names": (
        "text/csv; header=present",
        ",".join(f"p{n}" for n in range(64)).encode()
        + b"\r\n"
        + b",".join([b"1.0"] * 64)
        + b"\r\n",
    ),
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_is_the_same_tensor(proxy: Proxy, model: Neighbour, form: str) -> None:
    kind, body = FORMS[form]
    status, found = await ask(proxy, "/v1/predict/digits", body, **{"content-type": kind})
    assert (status, found["label"]) == (200, "7"), found
    sent = model.seen[-1]
    length = int(sent.header("inference-header-content-length") or "")
    header = orjson.loads(sent.body[:length])
    assert header["inputs"][0]["shape"] == [1, 64]
    assert np.frombuffer(sent.body[length:], "<f4").tolist() == ROW


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_images(proxy: Proxy, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 60), "white").save(buffer, kind)
    headers = {"content-type": f"image/{kind.lower()}"}
    assert (await ask(proxy, "/v1/predict/digits", buffer.getvalue(), **headers))[0] == 200


async def test_a_server_that_prepares_gets_the_picture_itself(
    proxy: Proxy, model: Neighbour
) -> None:
    picture = png()
    status, _ = await ask(proxy, "/v1/predict/raw", picture, **{"content-type": "image/png"})
    assert status == 200
    length = int(model.seen[-1].header("inference-header-content-length") or "")
    assert orjson.loads(model.seen[-1].body[:length])["inputs"][0]["datatype"] == "BYTES"
    assert model.seen[-1].body[length + 4 :] == picture


BOMB = png(2000, 2000)
BAD: dict[str, tuple[str, bytes, int, str]] = {
    "no body": ("application/json", b"", 400, "empty-body"),
    "no type": ("", b"{}", 415, "unsupported-media-type"),
    "another type": ("text/html", b"{}", 415, "unsupported-media-type"),
    "no JSON": ("application/json", b"{", 400, "bad-input"),
    "NaN": ("application/json", b"[[NaN]]", 400, "bad-input"),
    "a number": ("application/json", b"1", 400, "bad-input"),
    "an object without inputs": ("application/json", b'{"a":1}', 400, "bad-input"),
    "too few": ("application/json", b"[[1,2]]", 400, "bad-input"),
    "ragged": ("application/json", b"[[1,2],[1]]", 400, "bad-input"),
    "words": ("application/json", b'[["a"]]', 400, "bad-input"),
    "nulls": ("application/json", b"[[null]]", 400, "bad-input"),
    "no rows": ("application/json", b"[]", 400, "bad-input"),
    "unknown input": ("application/json", b'{"inputs":{"x":[[1]]}}', 400, "bad-input"),
    "no data": ("application/json", b'{"inputs":[{"name":"pixels"}]}', 400, "bad-input"),
    "a shape that lies": (
        "application/json",
        b'{"inputs":[{"name":"pixels","shape":[1,64],"data":[1]}]}',
        400,
        "bad-input",
    ),
    "a shape of words": (
        "application/json",
        b'{"inputs":[{"name":"pixels","shape":["x"],"data":[1]}]}',
        400,
        "bad-input",
    ),
    "deep nesting": ("application/json", b"[" * 100_000 + b"]" * 100_000, 400, "bad-input"),
    "ragged CSV": ("text/csv", b"1,2\n1", 400, "bad-input"),
    "CSV of words": ("text/csv", b"1,2\na,b", 400, "bad-input"),
    "CSV not in UTF-8": ("text/csv", b"\xff\xfe", 400, "bad-input"),
    "CSV that is empty": ("text/csv", b"\n\n", 400, "bad-input"),
    "no image": ("image/png", b"GIF89a", 400, "bad-input"),
    "half an image": ("image/png", png()[:40], 400, "bad-input"),
    "too many pixels": ("image/png", BOMB, 400, "bad-input"),
    "an unknown reference": ("application/json", b'{"reference":"x"}', 404, "unknown-reference"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_does_not_suit_is_named_and_never_reaches_the_model(
    proxy: Proxy, model: Neighbour, case: str
) -> None:
    kind, body, status, problem = BAD[case]
    got, found = await ask(proxy, "/v1/predict/digits", body, **{"content-type": kind})
    assert (got, found["type"]) == (status, f"urn:slipway:problem:{problem}"), found
    assert not [seen for seen in model.seen if seen.path.endswith("/infer")]


@pytest.mark.parametrize(
    ("path", "headers", "backend"),
    [
        ("/v1/predict/digits", {}, "digits"),
        ("/v1/predict/digits?size=large", {}, "large"),
        ("/v1/predict/digits?size=small", {}, "digits"),
        ("/v1/predict/digits", {"x-tier": "gold"}, "large"),
        ("/v1/predict/digits?any=&b=2", {}, "large"),
        ("/v1/predict/digits?b=2", {}, "digits"),
        ("/v1/predict?model=large", {}, "large"),
        ("/v1/predict", {"x-slipway-model": "large"}, "large"),
        ("/v1/predict?model=digits&size=large", {}, "large"),
    ],
)
async def test_the_request_chooses_the_model(
    proxy: Proxy, path: str, headers: dict[str, str], backend: str
) -> None:
    status, found = await ask(proxy, path, ROWS, **JSON, **headers)
    assert (status, found["model"]) == (200, backend)


async def test_rules_hold_on_the_pass_through_too(proxy: Proxy, upstream: Neighbour) -> None:
    await ask(proxy, "/v2/models/digits/infer?size=large", b"{}", **JSON)
    assert upstream.seen[-1].path == "/v2/models/digits/infer?size=large"


def test_a_rule_reads_a_doubled_name_as_the_mesh_does() -> None:
    """Envoy takes the first of a query's names, and the values of a header as one list."""
    rule = Rule(model="m", backend="b", query={"v": "b"})
    assert not fits(rule, b"v=a&v=b", [])
    assert fits(rule, b"v=b&v=a", [])
    by_header = Rule(model="m", backend="b", headers={"x-group": "b"})
    assert fits(by_header, b"", [(b"x-group", b"b")])
    assert not fits(by_header, b"", [(b"x-group", b"a"), (b"x-group", b"b")])


@pytest.mark.parametrize(
    ("more", "on_input", "named"),
    [
        ({"outputs": [{"name": "nope"}]}, {}, "outputs"),
        ({"parameters": {"sequence_id": 7}}, {}, "parameters"),
        ({}, {"parameters": {"shared_memory_region": "r"}}, "inputs[0].parameters"),
    ],
)
async def test_what_only_the_protocols_path_does_is_refused_by_name(
    proxy: Proxy, more: dict[str, Any], on_input: dict[str, Any], named: str
) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64, **on_input}
    body = orjson.dumps({"inputs": [entry], "id": "a", **more})
    status, found = await ask(proxy, "/v1/predict/digits", body, **JSON)
    assert status == 400
    assert f"{named} has no effect here: send it to /v2/models/digits/infer" in found["detail"]


async def test_no_model_named_is_400(proxy: Proxy) -> None:
    assert (await ask(proxy, "/v1/predict", ROWS, **JSON))[0] == 400


async def test_prepared_once_predicted_often(proxy: Proxy, model: Neighbour) -> None:
    kind = {"content-type": "image/png"}
    status, kept = await ask(proxy, "/v1/data/digits", png(), **kind)
    assert (status, kept["rows"], kept["model"]) == (201, 1, "digits")
    assert (await ask(proxy, "/v1/data/digits", png(), **kind))[1]["reference"] == kept["reference"]
    direct = await ask(proxy, "/v1/predict/digits", png(), **kind)
    body = orjson.dumps({"reference": kept["reference"]})
    referred = await ask(proxy, "/v1/predict/digits", body, **JSON)
    assert referred[1]["probabilities"] == direct[1]["probabilities"]
    first, second = [seen for seen in model.seen if seen.path.endswith("/infer")]
    assert first.body[-256:] == second.body[-256:]
    assert (await ask(proxy, "/v1/predict/raw", body, **JSON))[0] == 404, "another model's"


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (400, 400, "bad-input"),
        (404, 503, "model-unavailable"),
        (429, 429, "backend-busy"),
        (500, 502, "model-failed"),
        (503, 503, "model-unavailable"),
        (504, 504, "deadline-exceeded"),
    ],
)
async def test_a_servers_refusal_becomes_ours(
    proxy: Proxy, model: Neighbour, sent: int, status: int, kind: str
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": "said so"}, status=sent, headers={"Retry-After": "7"})

    model.on("/v2/models/digits/infer", refuse)
    got, found = await ask(proxy, "/v1/predict/digits", ROWS, **JSON)
    assert (got, found["type"]) == (status, f"urn:slipway:problem:{kind}")
    assert "said so" in found["detail"]


@pytest.mark.parametrize(
    "said",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b'{"outputs":[{"name":"p"}]}',
        b'{"outputs":[{"name":"p","datatype":"FP32","shape":[2,2],"data":[1]}]}',
        b'{"outputs":[{"name":"p","datatype":"XX","shape":[1],"data":[1]}]}',
        b'{"outputs":[{"name":"p","datatype":"FP32","shape":[1],'
        b'"parameters":{"binary_data_size":99}}]}',
    ],
)
async def test_answers_that_are_not_the_protocols_are_502(
    proxy: Proxy, model: Neighbour, said: bytes
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=said, content_type="application/json")

    model.on("/v2/models/digits/infer", answer)
    got, found = await ask(proxy, "/v1/predict/digits", ROWS, **JSON)
    assert (got, found["type"]) == (502, "urn:slipway:problem:bad-answer")


@pytest.mark.parametrize(
    "metadata",
    [
        b"x",
        b"{}",
        b'{"name":"digits","inputs":[{"name":"x"}],"outputs":[]}',
        orjson.dumps(METADATA | {"properties": {"preprocess": [{"transform": "dream"}]}}),
    ],
)
async def test_contracts_that_are_none_are_502(
    proxy: Proxy, model: Neighbour, metadata: bytes
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=metadata, content_type="application/json")

    model.on("/v2/models/digits", answer)
    got, found = await ask(proxy, "/v1/predict/digits", ROWS, **JSON)
    assert (got, found["type"]) == (502, "urn:slipway:problem:bad-contract")


NUMERIC = st.sampled_from([name for name in NUMPY if name not in ("BOOL", "FP16", "BYTES")])


@given(st.data(), NUMERIC)
def test_tensors_survive_the_wire(data: st.DataObject, datatype: str) -> None:
    dtype = NUMPY[datatype]
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)))
    body, length = encode_request(pack("x", array, datatype), identity="id")
    header = orjson.loads(body[:length])
    answer = orjson.dumps({"outputs": header["inputs"]})
    _, outputs = decode_answer(answer + body[length:], len(answer))
    np.testing.assert_array_equal(outputs["x"], array)


@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_parts_of_a_batch_are_the_batch(data: st.DataObject, count: int, size: int) -> None:
    array = data.draw(hnp.arrays(np.float32, (count, 3), elements=st.floats(-1, 1, width=32)))
    whole = Prepared(pack("x", array, "FP32"), count)
    parts = [whole.part(start, start + size) for start in range(0, count, size)]
    assert b"".join(part.inputs["x"][2] for part in parts) == array.tobytes()
    assert sum(part.rows for part in parts) == count
    assert Prepared.load(whole.dump()) == whole


@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_decode_or_are_a_bad_answer(body: bytes, length: int) -> None:
    with pytest.raises(BadAnswerError):
        decode_answer(body, length)


JSONS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(
    JSONS | st.builds(lambda x: {"instances": x}, JSONS) | st.builds(lambda x: {"inputs": x}, JSONS)
)
def test_any_json_is_a_tensor_or_bad_input(document: Any) -> None:
    import json

    try:
        found = tensors.from_json(json.dumps(document).encode(), CONTRACT)
    except BadTensorError:
        return
    assert found["pixels"].shape[1:] == (64,)


@pytest.mark.parametrize(
    ("values", "datatype"),
    [([[300]], "UINT8"), ([[-1]], "UINT8"), ([[1.5]], "INT32"), ([[1e39]], "FP32"),
     ([[1.0]], "BYTES")],
)  # fmt: skip
def test_arrays_that_do_not_fit_the_next_models_datatype(values: Any, datatype: str) -> None:
    with pytest.raises(BadTensorError, match="'x'"):
        tensors.converted(np.array(values), Tensor("x", datatype, (-1, 1)))


def test_every_problem_is_explained() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "apps/proxy/src/proxy").rglob("*.py"))
    raised = set(re.findall(r'Problem\(\s*[a-z_.0-9]+,\s*f?"([a-z-]+)"', source))
    raised |= set(re.findall(r'\breason = "([a-z-]+)"', source))
    raised |= {"unknown-ensemble", "unknown-pipeline"}
    written = set(re.findall(r"`([a-z-]+)`", (ROOT / "docs/problems.md").read_text()))
    assert raised - {"unknown-"} <= written
    assert Problem(404, "x", "y").body()


FREE_RANK: dict[str, Any] = METADATA | {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
    "properties": {"free_rank": ["x"]},
}


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (1, 1), (2, 3), (2, 1, 2, 2)])
async def test_an_input_of_any_rank_takes_any_shape(
    proxy: Proxy, model: Neighbour, shape: tuple[int, ...]
) -> None:
    """Such a model's metadata say [-1] and list it: the rank sent is the rank it gets."""
    seen: list[Any] = []

    async def metadata(_: web.Request) -> web.Response:
        return web.json_response(FREE_RANK)

    async def infer(request: web.Request) -> web.Response:
        size = int(request.headers["Inference-Header-Content-Length"])
        seen.append(orjson.loads((await request.read())[:size])["inputs"][0]["shape"])
        output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}
        return web.json_response({"outputs": [output]})

    model.on("/v2/models/digits", metadata)
    model.on("/v2/models/digits/infer", infer)
    data = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape).tolist()
    flat = np.ravel(data).tolist()
    sent = {"name": "x", "datatype": "FP32", "shape": list(shape), "data": flat}
    for body in ({"inputs": [sent]}, {"inputs": {"x": data}}):
        status, document = await ask(proxy, "/v1/predict/digits", orjson.dumps(body), **JSON)
        assert status == 200, document
    assert seen == [list(shape)] * 2


async def test_a_table_for_an_input_of_any_rank_and_nothing_for_no_inputs() -> None:
    free = contracts.parse(FREE_RANK, name="m", max_pixels=1)
    assert tensors.from_csv(b"1,2\n3,4\n5,6\n", free, "text/csv")["x"].shape == (3, 2)
    none = contracts.parse(FREE_RANK | {"inputs": []}, name="m", max_pixels=1)
    assert tensors.from_json(b'{"inputs": []}', none) == {}
    assert tensors.count_rows({}, none.inputs) == 1
    with pytest.raises(BadTensorError):
        tensors.from_json(b'{"inputs": [{"name": "x"}]}', none)
