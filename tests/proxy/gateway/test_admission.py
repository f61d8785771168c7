"""Who may do what is decided on the very path, header and key that are used afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.http.request import Request
from proxy.jobs.queue import Keys
from proxy.policy.authentication import Caller, allow
from proxy.store.redis import key_of
from tests.proxy.conftest import (
    Neighbour,
    Proxy,
    _answer_infer,
    _answer_metadata,
    neighbour,
    proxy_with,
)
from tests.proxy.faults import speak

KEY = "key-of-a-narrow-caller"


def _settings(model: Neighbour, upstream: Neighbour) -> dict[str, Any]:
    return {
        "backends": {
            "digits": {"type": "http", "url": model.url},
            "secret": {"type": "http", "url": model.url},
        },
        "upstreams": {
            "": {"url": upstream.url},
            "users": {"url": f"{upstream.url}/users"},
            "users/admin": {"url": f"{upstream.url}/users/admin"},
        },
        "auth_required": True,
        "stage_prefixes": ["/dev"],
        "api_keys": {
            "narrow": {
                "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
                "scopes": ["predict:digits", "api:users", "api:"],
            }
        },
    }


class Driver:
    """A proxy and its neighbours in a loop of their own, for tests that are not coroutines."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.run(self._start())

    async def _start(self) -> None:
        self.model = await self.stack.enter_async_context(neighbour())
        self.model.on("/v2/models/digits", _answer_metadata)
        self.model.on("/v2/models/secret", _answer_metadata)
        self.model.on("*", _answer_infer)
        self.upstream = await self.stack.enter_async_context(neighbour())
        self.upstream.on("*", _answer_infer)
        self.proxy = await self.stack.enter_async_context(
            proxy_with(**_settings(self.model, self.upstream))
        )

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def ask(self, method: str, path: str, headers: str = "") -> tuple[int, list[str]]:
        """The status, and the paths that neighbours were asked for."""
        self.model.seen.clear()
        self.upstream.seen.clear()
        body = '{"instances":[[' + ",".join(["1"] * 64) + "]]}"
        sent = (
            f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n{body}"
        )
        answer: bytes = self.run(speak(self.proxy.url, sent.encode("latin-1")))
        found = [seen.path for seen in (*self.model.seen, *self.upstream.seen)]
        return int(answer[9:12]), found

    def close(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    found = Driver()
    yield found
    found.close()


TARGETS = [
    "/v1/predict/digits",
    "/v1/predict/secret",
    "/v1/predict?model=secret",
    "/v1/models",
    "/v1/jobs/digits",
    "/v1/data/secret",
    "/v2/models/digits/infer",
    "/v2/models/secret/infer",
    "/v2/repository/index",
    "/api/users/1",
    "/api/users/admin/1",
    "/api/other",
]


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A path as an attacker may write it: escapes, case, parameters, slashes and dots."""
    path = draw(st.sampled_from(["", "", "/dev"])) + draw(st.sampled_from(TARGETS))
    out: list[str] = []
    for sign in path:
        change = draw(st.integers(0, 24))
        if change == 0:
            out.append(f"%{ord(sign):02x}")
        elif change == 1:
            out.append(f"%{ord(sign):02X}")
        elif change == 2:
            out.append(f"%25{ord(sign):02x}")
        elif change == 3:
            out.append(sign.swapcase())
        elif change == 4 and sign == "/":
            out.append(
                draw(st.sampled_from(["//", "/./", "/x/../", ";a=b/", "%2f", "/%2e/", "./"]))
            )
        elif change == 5:
            out.append(
                sign + draw(st.sampled_from([";x", ";", "%00", "%20", ".", "%09", "\\", "~"]))
            )
        else:
            out.append(sign)
    return "".join(out)


def lenient_path(path: str) -> str:
    """What a careless server makes of a path."""
    for _ in range(4):
        path = unquote(path)
    path = re.sub(r";[^/]*", "", path.split("?")[0])
    path = re.sub(r"[ .\x00]+(?=/|$)", "", path).replace("\\", "/")
    return re.sub(r"/+", "/", path).lower()


@given(spellings(), st.sampled_from(["GET", "POST", "HEAD", "OPTIONS"]))
@example("/%761/predict/digits", "POST")
@example("/v1/%70redict/secret", "POST")
@example("/v2/models/se%63ret/infer", "POST")
@example("/%76%32/models/secret/infer", "POST")
@example("/%61pi/users/1", "GET")
@example("//v1/predict/digits", "POST")
@example("/v1;x/predict/digits", "POST")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_spelling_of_a_path_reaches_anything_without_a_credential(
    driver: Driver, path: str, method: str
) -> None:
    """Found: `POST /%761/predict/digits` was answered; the check looked at another spelling."""
    status, reached = driver.ask(method, path)
    assert reached == []
    assert status in (400, 401, 404, 405), (path, status)


@given(spellings(), st.sampled_from(["GET", "POST"]))
@example("/api/%75sers/admin/1", "GET")
@example("/api/users/%61dmin/1", "GET")
@example("/api/users/%2561dmin/1", "GET")
@example("/api/users/ADMIN/1", "GET")
@example("/api/users/admin;x/1", "GET")
@example("/api/users/admin%20/1", "GET")
@example("/api/users;x/admin/1", "GET")
@example("/api/Users/admin/1", "GET")
@example("/v1/predict/se%63ret", "POST")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_reached_is_what_was_decided_on(driver: Driver, path: str, method: str) -> None:
    """A caller of `digits` and `users` never reaches `secret` or `users/admin`."""
    status, reached = driver.ask(method, path, headers=f"X-API-Key: {KEY}\r\n")
    for each in reached:
        assert not lenient_path(each).startswith("/users/admin"), (path, each)
        assert "secret" not in lenient_path(each), (path, each)
    assert status != 500, path


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/openapi.json", "/favicon.ico", "/v1/about", "/docs/swagger-ui.css",
     "/v2", "/v2/health/live", "/v2/health/ready", "/v1/%61bout"],
)  # fmt: skip
def test_what_is_open_is_a_list(driver: Driver, path: str) -> None:
    assert driver.ask("GET", path)[0] == 200


@pytest.mark.parametrize("path", ["/v1/nothing", "/docs/other", "/v1", "/v3/x", "/DOCS", "/redoc"])
def test_what_is_not_on_the_list_asks_for_a_credential_first(driver: Driver, path: str) -> None:
    assert driver.ask("GET", path)[0] == 401


def test_nobody_is_allowed_anything_before_being_admitted() -> None:
    scope: Any = {"headers": [], "raw_path": b"/v1/predict/digits", "method": "POST"}
    request = Request(scope, None, None, 0.0)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="not checked"):
        allow(request, "predict", "digits")
    request.admitted = True
    allow(request, "predict", "digits")
    request.caller = Caller("key:x", frozenset({"predict:letters"}))
    with pytest.raises(Exception, match="predict:digits"):
        allow(request, "predict", "digits")


TWICE = [
    "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    f"X-API-Key: {KEY}\r\nX-API-Key: other\r\n",
    f"X-API-Key: {KEY}\r\nx-api-key: {KEY}\r\n",
    f"X-API-Key: {KEY}\r\nContent-Type: text/csv\r\n",
    f"X-API-Key: {KEY}\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n",
    f"X-API-Key: {KEY}\r\nX-Slipway-Model: digits\r\nX-Slipway-Model: secret\r\n",
]


@pytest.mark.parametrize("path", ["/v1/predict/digits", "/v2/models/digits/infer", "/api/users/1"])
@pytest.mark.parametrize("headers", TWICE)
def test_what_can_only_be_said_once_is_400_said_twice(
    driver: Driver, path: str, headers: str
) -> None:
    """Found: a second credential was ignored here and believed by the upstream."""
    assert driver.ask("POST", path, headers=headers) == (400, [])


@pytest.fixture
async def limited(model: Neighbour, redis_url: str) -> AsyncIterator[Proxy]:
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url}},
        redis_url=redis_url,
        redis_prefix=f"test-{uuid.uuid4().hex[:8]}",
        rate_limit={"requests": 1, "window_seconds": 60},
    ) as found:
        yield found


async def test_several_x_forwarded_for_headers_are_one_list(limited: Proxy) -> None:
    """Found: the first of them counted, which is the caller's own invention."""
    statuses = []
    for number in range(2):
        answer = await speak(
            limited.url,
            f"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.{number}\r\n"
            "X-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n".encode(),
        )
        statuses.append(answer[9:12])
    assert statuses == [b"200", b"429"]


@given(st.lists(st.text(max_size=8), max_size=4), st.lists(st.text(max_size=8), max_size=4))
def test_keys_made_of_other_words_are_other_keys(one: list[str], other: list[str]) -> None:
    assert (key_of(*one) == key_of(*other)) == (one == other)
    assert re.fullmatch("[0-9a-f]{64}", key_of(*one))


def test_an_idempotency_key_belongs_to_its_owner() -> None:
    """Found: `sub:org` with the key `team:x` was `sub:org:team` with the key `x`."""
    keys = Keys("slipway")
    assert keys.idempotency("sub:org", "team:x") != keys.idempotency("sub:org:team", "x")
    assert "team" not in keys.idempotency("sub:org:team", "x")


async def test_a_reference_of_another_caller_is_404_however_it_is_written(
    model: Neighbour, redis_url: str
) -> None:
    """Found: `sub=org` with the reference `team:R` read what `org:team` had kept."""
    names = {"org": "one", "org:team": "two"}
    body = b'{"instances":[[' + b",".join([b"1"] * 64) + b"]]}"
    json = {"content-type": "application/json"}
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url}},
        redis_url=redis_url,
        redis_prefix=f"test-{uuid.uuid4().hex[:8]}",
        api_keys={
            name: {"sha256": hashlib.sha256(key.encode()).hexdigest()}
            for name, key in names.items()
        },
        auth_required=True,
    ) as proxy:
        url = f"{proxy.url}/v1/data/digits"
        async with proxy.session.post(
            url, data=body, headers=json | {"x-api-key": "two"}
        ) as answer:
            reference = (await answer.json())["reference"]
        asked = {
            ("two", reference): 200,
            ("one", reference): 404,
            ("one", f"team:{reference}"): 404,
            ("two", reference.upper()): 404,
            ("two", f"{reference}x"): 404,
            ("two", f"{reference}\n"): 404,
        }
        for (key, written), status in asked.items():
            async with proxy.session.post(
                f"{proxy.url}/v1/predict/digits",
                json={"reference": written},
                headers={"x-api-key": key},
            ) as answer:
                assert answer.status == status, (key, written)
