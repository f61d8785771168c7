"""The first things anybody asks of the proxy."""

from __future__ import annotations

import io

from PIL import Image
from yarl import URL

from tests.proxy.conftest import LABELS, Neighbour, proxy_with


def png(width: int = 64, height: int = 64, shade: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), shade).save(buffer, "PNG")
    return buffer.getvalue()


async def test_about_names_the_build() -> None:
    async with (
        proxy_with(source_revision="abc", pod_name="proxy-0", release_name="proxy") as proxy,
        proxy.session.get(f"{proxy.url}/v1/about") as answer,
    ):
        assert answer.status == 200
        assert await answer.json() == {
            "service": "proxy",
            "release": "proxy",
            "revision": "abc",
            "pod": "proxy-0",
        }


async def test_an_image_becomes_a_label(model: Neighbour) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    async with (
        proxy_with(backends=backends) as proxy,
        proxy.session.post(
            f"{proxy.url}/v1/predict/digits",
            data=png(),
            headers={"content-type": "image/png", "x-request-id": "req-1"},
        ) as answer,
    ):
        document = await answer.json()
        assert answer.status == 200, document
        assert document["label"] == "7"
        assert document["probability"] == 0.55
        assert list(document["probabilities"]) == LABELS
        assert document["version"] == "1"
        assert document["variant"] == answer.headers["X-Slipway-Variant"] == "inference"
        assert document["pod"] == "inference-0"
        assert document["request_id"] == answer.headers["X-Request-Id"] == "req-1"
        assert float(answer.headers["X-Slipway-Overhead-Ms"]) >= 0
    infer = next(seen for seen in model.seen if seen.path.endswith("/infer"))
    assert infer.header("x-request-id") == "req-1"
    assert infer.header("inference-header-content-length") is not None


async def test_the_protocol_is_passed_through_byte_for_byte(model: Neighbour) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    body = b'{"inputs": [ {"name":"pixels"} ] , "odd":\t1}'
    async with (
        proxy_with(backends=backends) as proxy,
        proxy.session.post(
            URL(f"{proxy.url}/v2/models/digits/infer?a=1&b=%2F", encoded=True),
            data=body,
            headers={"x-own": "kept"},
        ) as answer,
    ):
        assert answer.status == 200
        assert (await answer.json())["model_name"] == "digits"
        assert answer.headers["X-Slipway-Pod"] == "inference-0"
    (seen,) = model.seen
    assert seen.body == body
    assert seen.path == "/v2/models/digits/infer?a=1&b=%2F"
    assert seen.header("x-own") == "kept"


async def test_an_unknown_model_is_a_problem_that_names_the_known(model: Neighbour) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    async with proxy_with(backends=backends) as proxy:
        for path in ("/v2/models/letters/infer", "/v1/predict/letters"):
            async with proxy.session.post(
                proxy.url + path, data=b"{}", headers={"content-type": "application/json"}
            ) as answer:
                document = await answer.json()
                assert answer.status == 404
                assert answer.content_type == "application/problem+json"
                assert document["type"] == "urn:slipway:problem:unknown-model"
                assert "digits" in document["detail"]
                assert document["request_id"] == answer.headers["X-Request-Id"]
