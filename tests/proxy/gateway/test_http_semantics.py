"""What HTTP says of every server, and the proxy now does: codings, Allow, HEAD, unknown ids."""

from __future__ import annotations

import gzip
import json
import uuid
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.config.policies import CallbackPolicy
from proxy.jobs.callback_urls import check, is_public
from tests.proxy.conftest import Neighbour, Proxy, proxy_with

ROWS = json.dumps({"instances": [[1.0] * 64]}).encode()
JSON = {"content-type": "application/json"}


@pytest.fixture
async def proxy(model: Neighbour, redis_url: str) -> AsyncIterator[Proxy]:
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url}},
        ensembles={"all": {"members": [{"model": "digits"}]}},
        pipelines={"row": {"steps": [{"model": "digits"}]}},
        redis_url=redis_url,
        redis_prefix=f"test-{uuid.uuid4().hex[:8]}",
        max_body_bytes=100_000,
    ) as found:
        yield found


PATHS = ["/v1/predict/digits", "/v1/predict?model=digits", "/v1/ensembles/all", "/v1/pipelines/row"]
CODED = {
    "gzip": gzip.compress(ROWS),
    "GZIP": gzip.compress(ROWS),
    "x-gzip": gzip.compress(ROWS),
    "deflate": zlib.compress(ROWS),
    "identity": ROWS,
    "identity, gzip": gzip.compress(ROWS),
    "gzip, gzip": gzip.compress(gzip.compress(ROWS)),
}


@pytest.mark.parametrize("path", [*PATHS, "/v1/data/digits", "/v1/jobs/digits"])
async def test_compressed_bodies_are_taken(proxy: Proxy, path: str) -> None:
    """Found: a compressed body was read as if it were JSON."""
    for coding, body in CODED.items():
        headers = JSON | {"content-encoding": coding}
        async with proxy.session.post(proxy.url + path, data=body, headers=headers) as answer:
            assert answer.status in (200, 201, 202), (coding, await answer.text())


BAD: dict[str, tuple[str, bytes, int]] = {
    "a bomb": ("gzip", gzip.compress(b"0" * 10_000_000), 413),
    "a bomb in a bomb": ("gzip, gzip", gzip.compress(gzip.compress(b"0" * 10_000_000)), 413),
    "no gzip": ("gzip", ROWS, 400),
    "cut short": ("gzip", gzip.compress(ROWS)[:-4], 400),
    "something after it": ("gzip", gzip.compress(ROWS) + b"x", 400),
    "not known": ("br", ROWS, 415),
    "too many": ("gzip, gzip, gzip", ROWS, 415),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_compressed_bodies_are_refused(proxy: Proxy, case: str) -> None:
    coding, body, status = BAD[case]
    headers = JSON | {"content-encoding": coding}
    url = f"{proxy.url}/v1/predict/digits"
    async with proxy.session.post(url, data=body, headers=headers) as answer:
        assert answer.status == status, await answer.text()
    async with proxy.session.post(
        url, data=CODED["gzip"], headers=JSON | {"content-encoding": "gzip"}
    ) as answer:  # what was held is given back
        assert answer.status == 200


async def test_a_reference_may_be_written_as_wide_as_one_likes(proxy: Proxy) -> None:
    """Found: beyond 256 bytes a reference was taken for an input."""
    async with proxy.session.post(f"{proxy.url}/v1/data/digits", data=ROWS, headers=JSON) as answer:
        assert answer.status == 201
        reference = (await answer.json())["reference"]
    body = "{\n" + " " * 1000 + f'"reference":\n\t"{reference}"' + "\n" * 1000 + "}"
    async with proxy.session.post(
        f"{proxy.url}/v1/predict/digits", data=body, headers=JSON
    ) as answer:
        assert answer.status == 200, await answer.text()


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/jobs/" + "0" * 32, "DELETE, GET, HEAD, POST"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("GET", "/v1/predict/digits", "POST"),
        ("GET", "/v1/predict", "POST"),
        ("DELETE", "/", "GET, HEAD"),
        ("POST", "/v1/jobs/" + "0" * 32 + "/events", "GET"),
        ("PUT", "/v2/models/digits/infer", "POST"),
        ("PUT", "/v2/models/digits", "GET, HEAD"),
    ],
)
async def test_405_names_every_method_of_the_path(
    proxy: Proxy, method: str, path: str, allow: str
) -> None:
    """Found: Allow named the methods of one of several routes."""
    async with proxy.session.request(method, proxy.url + path) as answer:
        assert (answer.status, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path", [*PATHS[:1], "/v1/models", "/v1/jobs/digits", "/docs", "/v1/about"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_slash_at_the_end_is_another_path(proxy: Proxy, path: str, method: str) -> None:
    """Found: 307 to the Host that the caller named, over http and without the stage's prefix."""
    async with proxy.session.request(
        method, f"{proxy.url}{path}/", data=ROWS, headers=JSON | {"host": "evil.example"},
        allow_redirects=False,
    ) as answer:  # fmt: skip
        assert (answer.status, answer.content_type) == (404, "application/problem+json")
        assert "location" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v1/about", "/v1/models", "/v2"])
async def test_head_is_get_without_the_body(proxy: Proxy, path: str) -> None:
    async with proxy.session.get(proxy.url + path) as answer:
        expected = answer.status, answer.content_type
    async with proxy.session.head(proxy.url + path) as answer:
        assert (answer.status, answer.content_type) == expected == (200, expected[1])
        assert await answer.read() == b""


@pytest.mark.parametrize("identity", ["0" * 32, "nothing", "0" * 31, "A" * 32, "0" * 33, "%00x"])
@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("DELETE", ""), ("GET", "/events")])
async def test_a_job_that_is_not_there_is_404_however_it_is_named(
    proxy: Proxy, identity: str, method: str, rest: str
) -> None:
    """Found: an id of another form was 422."""
    url = f"{proxy.url}/v1/jobs/{identity}{rest}"
    async with proxy.session.request(method, url) as answer:
        document: dict[str, Any] = await answer.json()
    if "%00" in identity:
        assert answer.status == 400
    else:
        assert (answer.status, document["type"]) == (404, "urn:slipway:problem:unknown-job")


INWARD = [
    "fec0::1", "fec0:0:0:1::1", "64:ff9b:1::7f00:1", "64:ff9b::10.0.0.1", "::7f00:1", "::10.0.0.1",
    "::ffff:0:127.0.0.1", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "5f00::1", "100::1",
    "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:7f00:1", "2002:a9fe:a9fe::1", "ff02::1",
    "4000::1", "192.88.99.1", "240.0.0.1", "192.0.0.8", "192.0.2.1", "198.51.100.1",
]  # fmt: skip


@pytest.mark.parametrize("address", INWARD)
def test_addresses_that_are_not_the_internets(address: str) -> None:
    """Found: fec0::1, site-local, was taken for public."""
    assert not is_public(address)


POLICY = CallbackPolicy(allow=["https://hooks.test/cb", "http://[fec0::1]"])


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.test/cb/..;/x",
        "https://hooks.test/cb/..;a=b/x",
        "https://hooks.test/cb/.;/x",
        "https://hooks.test/cb/./x",
        "https://hooks.test/cb//x",
        "https://hooks.test/cb/x/..",
        "https://hooks%2etest/cb",
        "https://hooks.test./cb",
        "http://[fec0::1]/x",
    ],
)
def test_callbacks_that_mean_something_else_elsewhere(url: str) -> None:
    """Found: `/cb/..;/x` is `/x` to a servlet container."""
    with pytest.raises(Exception, match="callback URL"):
        check(url, POLICY)
