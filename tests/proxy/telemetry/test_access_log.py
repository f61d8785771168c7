"""The access log: a line for each request, none of a caller's secrets, and what is lost counted."""

from __future__ import annotations

import os
import signal
from collections import Counter as Tally
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import orjson
import pytest
from aiohttp import web
from yarl import URL

from proxy.telemetry import access_log
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.metrics import Counter
from tests.ports import free_port
from tests.proxy.conftest import Neighbour
from tests.proxy.policy.test_authentication import AUDIENCE, ISSUER, OTHER_RSA, jwks, token
from tests.proxy.processes import running

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_every_request_has_its_line_and_no_secret_is_in_any(
    model: Neighbour, upstream: Neighbour, redis_url: str, tmp_path: Path, level: str
) -> None:
    """Found: a WebSocket's query was logged, and at `debug` its headers."""

    async def publish(_: web.Request) -> web.Response:
        return web.json_response(jwks("rsa"))

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), headers={"Set-Cookie": "s=secret-set"})

    upstream.on("/jwks", publish)
    upstream.on("/x", echo)
    good, forged = token(scope="*"), token(key=OTHER_RSA)
    secrets = ["secret-key", "secret-guess", "secret-cookie", "secret-query", "secret-body"]
    secrets += ["secret-set", "secret-callback", "secret-basic", "secret-idempotency"]
    secrets += [good, forged, good.split(".")[2], forged.split(".")[2]]
    query = "?token=secret-query&access_token=secret-query"
    key = {"x-api-key": "secret-key"}
    body = b'{"instances": "secret-body"'
    asked: list[tuple[str, str, int, dict[str, str], bytes]] = [
        ("GET", f"/api/whole/x{query}", 200, key | {"cookie": "session=secret-cookie"}, b""),
        ("POST", f"/api/whole/x{query}", 200, {"authorization": f"Bearer {good}"}, b"secret-body"),
        ("GET", f"/api/gone/x{query}", 503, key, b""),
        ("GET", f"/api/whole/%2e%2e/x{query}", 400, key, b""),
        ("GET", f"/api/whole/x{query}", 401, {"authorization": f"Bearer {forged}"}, b""),
        ("GET", "/api/whole/x", 401, {"authorization": "Basic secret-basic"}, b""),
        ("GET", "/api/whole/x", 401, {"x-api-key": "secret-guess"}, b""),
        ("POST", f"/v2/models/digits/infer{query}", 200, key, body),
        ("POST", f"/v1/predict/digits{query}", 400, key | JSON, body),
        ("POST", f"/v1/jobs/digits{query}&callback=https://a:secret-callback@b.test/", 422,
         key | JSON, body),
        ("POST", f"/v1/jobs/digits{query}", 202,
         key | JSON | {"idempotency-key": "secret-idempotency"}, b'{"secret-body": 1}'),
    ]  # fmt: skip
    settings: dict[str, Any] = {
        "backends": {"digits": {"type": "http", "url": model.url}},
        "upstreams": {
            "whole": {"url": upstream.url, "forward_authorization": True},
            "gone": {"url": f"http://127.0.0.1:{free_port()}"},
        },
        "auth_required": True,
        "jwt": {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": f"{upstream.url}/jwks"},
        "api_keys": {"batch": {"sha256": sha256(b"secret-key").hexdigest(), "scopes": ["*"]}},
        "callback_secret": "secret-callback-signature",
        "redis_url": redis_url,
        "log_level": level,
        "stop_delay_seconds": 0,
        "access_log": "all",
    }
    async with (
        running(tmp_path, "proxy", "serve", **settings) as proxy,
        aiohttp.ClientSession() as session,
    ):
        for method, path, status, headers, data in asked:
            url = URL(proxy.url + path, encoded=True)
            async with session.request(method, url, data=data, headers=headers) as answer:
                said = await answer.text()
                assert answer.status == status, (path, said)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{proxy.url}/api/whole/ws{query}", headers=key)
        proxy.signal(signal.SIGTERM)
        assert await proxy.ended() == 0
        written = proxy.log.read_text()
    assert [secret for secret in secrets if secret in written] == []
    lines = [orjson.loads(line) for line in written.splitlines()]
    logged = [line for line in lines if line.get("message") == "request" and line.get("client")]
    wanted = Tally(
        (method, unquote(path.partition("?")[0]), status) for method, path, status, _, _ in asked
    )
    found = Tally((line["method"], line["path"], line["status"]) for line in logged)
    assert wanted <= found, written
    first = next(line for line in logged if line["path"] == "/api/whole/x")
    assert (first["caller"], first["route"]) == ("key:batch", "/api/whole/{path}")
    assert first["request_id"] and first["trace_id"] and first["seconds"] > 0


async def test_lines_that_cannot_be_written_are_counted() -> None:
    """Found: the metric of dropped lines stayed 0, whatever was dropped."""
    reader, writer = os.pipe()
    os.close(reader)
    dropped = Counter("dropped", "")
    log = AccessLog({}, dropped, descriptor=writer)
    for _ in range(3):
        log.write(path="/")
    log.flush()
    assert dropped.value() == 3
    os.close(writer)


async def test_lines_beyond_the_most_that_may_wait_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(access_log, "MOST_LINES", 2)
    dropped = Counter("dropped", "")
    with (tmp_path / "log").open("wb") as file:
        log = AccessLog({"pod": "one"}, dropped, descriptor=file.fileno())
        for number in range(5):
            log.write(number=number)
        log.flush()
    assert dropped.value() == 3
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert [orjson.loads(line)["number"] for line in lines] == [0, 1]
