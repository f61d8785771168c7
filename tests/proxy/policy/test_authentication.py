"""Credentials, real tokens signed by real keys."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import jwt
import orjson
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from kit.http.problem import Problem
from proxy.config.policies import JwtPolicy
from proxy.policy.authentication import Authenticator
from tests.proxy.conftest import Neighbour, Proxy, eventually, neighbour, proxy_with

ISSUER, AUDIENCE = "https://issuer.test", "slipway"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwks(*kids: str) -> dict[str, Any]:
    keys = []
    for kid in kids:
        if kid == "ec":
            keys.append(orjson.loads(ECAlgorithm.to_jwk(EC_KEY.public_key())) | {"kid": kid})
        else:
            keys.append(orjson.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key())) | {"kid": kid})
    return {"keys": keys}


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now,
        "exp": now + 300,
        "scope": "predict:digits",
    } | changed
    return {name: value for name, value in found.items() if value is not None}


def token(kid: str = "rsa", key: Any = RSA_KEY, alg: str = "RS256", **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm=alg, headers={"kid": kid})


@pytest.fixture
async def issuer() -> AsyncIterator[Neighbour]:
    async with neighbour() as found:

        async def publish(_: web.Request) -> web.Response:
            return web.json_response(jwks("rsa", "ec"))

        found.on("/jwks", publish)
        yield found


@pytest.fixture
async def proxy(model: Neighbour, issuer: Neighbour) -> AsyncIterator[Proxy]:
    async with guarded(model, issuer) as found:
        yield found


@asynccontextmanager
async def guarded(model: Neighbour, issuer: Neighbour, **policy: Any) -> AsyncIterator[Proxy]:
    """A proxy that wants credentials; it reads the issuer's keys as soon as it runs."""
    url = f"{issuer.url}/jwks"
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url}},
        auth_required=True,
        jwt={"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": url} | policy,
        api_keys={
            "batch": {"sha256": sha256(b"key-of-batch").hexdigest(), "scopes": ["predict:digits"]},
            "other": {"sha256": sha256(b"key-of-other").hexdigest(), "scopes": ["jobs:*"]},
        },
    ) as found:
        yield found


async def ask(proxy: Proxy, **headers: str) -> tuple[int, dict[str, Any], str]:
    async with proxy.session.post(
        f"{proxy.url}/v2/models/digits/infer", data=b"{}", headers=headers
    ) as answer:
        return answer.status, await answer.json(), answer.headers.get("WWW-Authenticate", "")


async def test_good_credentials(proxy: Proxy, model: Neighbour) -> None:
    for headers in (
        {"authorization": f"Bearer {token()}"},
        {"authorization": f"bearer {token('ec', EC_KEY, 'ES256')}"},
        {"x-api-key": "key-of-batch"},
        {"authorization": "Bearer key-of-batch"},
        {"authorization": f"Bearer {token(scope='predict:*')}"},
        {"authorization": f"Bearer {token(aud=['x', AUDIENCE])}"},
    ):
        status, document, _ = await ask(proxy, **headers)
        assert status == 200, (headers, document)
    for seen in model.seen:
        assert seen.header("authorization") is None, "credentials end at the proxy"
        assert seen.header("x-api-key") is None


def _none_token() -> str:
    return jwt.encode(claims(), None, algorithm="none", headers={"kid": "rsa"})


def _confused_token() -> str:
    # The public key as an HMAC secret: what libraries that trust `alg` fell for.
    import base64
    import hmac

    def part(document: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(orjson.dumps(document)).rstrip(b"=")

    signed = part({"alg": "HS256", "kid": "rsa"}) + b"." + part(claims())
    mac = base64.urlsafe_b64encode(hmac.digest(PUBLIC_PEM, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


BAD = {
    "expired": lambda: token(exp=int(time.time()) - 120),
    "not yet valid": lambda: token(nbf=int(time.time()) + 120),
    "wrong audience": lambda: token(aud="others"),
    "wrong issuer": lambda: token(iss="https://evil.test"),
    "alg none": _none_token,
    "public key as HMAC secret": _confused_token,
    "signed by somebody else": lambda: token(key=OTHER_RSA),
    "unknown kid": lambda: token("unheard-of"),
    "key of another kind": lambda: token("ec"),
    "no expiry": lambda: token(exp=None),
    "no audience": lambda: token(aud=None),
    "an expiry of 400 digits": lambda: token(exp=10**400),
    "no subject": lambda: token(sub=None),
    "an empty subject": lambda: token(sub=""),
    "a blank subject": lambda: token(sub=" "),
    "half of a surrogate pair as its subject": lambda: token(sub="\ud800", scope="jobs:*"),
    "not base64": lambda: "a.b.c",
    "two parts": lambda: "a.b",
    "empty parts": lambda: "..",
    "cut": lambda: token()[:-10],
    "changed": lambda: token()[:-4] + "AAAA",
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_tokens_are_401(proxy: Proxy, model: Neighbour, case: str) -> None:
    status, document, challenge = await ask(proxy, authorization=f"Bearer {BAD[case]()}")
    assert status == 401, (case, document)
    assert document["type"] == "urn:slipway:problem:unauthorized"
    assert challenge.startswith("Bearer ")
    assert model.seen == []


async def test_other_bad_credentials(proxy: Proxy, model: Neighbour) -> None:
    for headers in (
        {},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer "},
        {"x-api-key": "guess"},
        {"x-api-key": sha256(b"key-of-batch").hexdigest()},
        {"x-api-key": "key-of-batch", "authorization": f"Bearer {token()}"},
    ):
        status, _, challenge = await ask(proxy, **headers)
        assert status == 401, headers
        assert challenge
    assert model.seen == []


async def test_a_missing_scope_is_403_and_named(proxy: Proxy) -> None:
    for headers in (
        {"x-api-key": "key-of-other"},
        {"authorization": f"Bearer {token(scope='predict:letters')}"},
        {"authorization": f"Bearer {token(scope=None)}"},
    ):
        status, document, challenge = await ask(proxy, **headers)
        assert status == 403
        assert "predict:digits" in document["detail"]
        assert "insufficient_scope" in challenge


async def test_an_issuers_keys_are_read_to_their_end_however_they_arrive(
    model: Neighbour, issuer: Neighbour
) -> None:
    """Found: a JWKS in several segments was cut after the first; its issuer was no issuer."""
    document = orjson.dumps(jwks("other", "rsa"))
    arrived = asyncio.Event()

    async def in_parts(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for at in range(0, len(document), 200):
            await answer.write(document[at : at + 200])
            await asyncio.sleep(0.01)  # a segment of its own
        arrived.set()
        return answer

    issuer.on("/jwks", in_parts)
    async with guarded(model, issuer) as proxy:
        assert (await ask(proxy, authorization=f"Bearer {token()}"))[0] == 200
    assert arrived.is_set()


async def test_an_issuer_that_compresses_is_read(model: Neighbour, issuer: Neighbour) -> None:
    """Found: compressed keys were asked for and not unpacked."""

    async def compressed(request: web.Request) -> web.Response:
        asked.append(request.headers.get("accept-encoding", ""))
        answer = web.json_response(jwks("rsa"))
        answer.enable_compression(web.ContentCoding.gzip)
        return answer

    asked: list[str] = []
    issuer.on("/jwks", compressed)
    async with guarded(model, issuer) as proxy:
        assert (await ask(proxy, authorization=f"Bearer {token()}"))[0] == 200
    assert asked == ["identity"], "nor need it compress"


async def test_an_issuer_that_never_ends_is_cut_off(model: Neighbour, issuer: Neighbour) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b" " * 65536)
        return answer

    issuer.on("/jwks", endless)
    async with guarded(model, issuer) as proxy:
        status, document, _ = await ask(proxy, authorization=f"Bearer {token()}")
    assert (status, document["type"]) == (503, "urn:slipway:problem:issuer-unavailable")


async def test_unknown_kids_do_not_make_us_ask_the_issuer_at_will(
    proxy: Proxy, issuer: Neighbour
) -> None:
    for number in range(10):
        await ask(proxy, authorization=f"Bearer {token(f'kid-{number}')}")
    assert len(issuer.seen) == 1


async def test_an_issuer_that_is_down_is_503_until_its_keys_were_read_once(
    model: Neighbour,
) -> None:
    policy = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": "http://127.0.0.1:1/jwks"}
    async with proxy_with(
        backends={"digits": {"type": "http", "url": model.url}}, jwt=policy, auth_required=True
    ) as proxy:
        status, document, _ = await ask(proxy, authorization=f"Bearer {token()}")
    assert status == 503
    assert document["type"] == "urn:slipway:problem:issuer-unavailable"


async def test_pages_and_probes_need_no_credential_but_the_rest_does(proxy: Proxy) -> None:
    for path, status in (
        ("/", 200),
        ("/docs", 200),
        ("/openapi.json", 200),
        ("/v1/about", 200),
        ("/readyz", 200),
        ("/v2/health/ready", 200),
        ("/v1/models", 401),
        ("/v1/jobs/" + "0" * 32, 401),
    ):
        async with proxy.session.get(proxy.url + path) as answer:
            assert answer.status == status, path


async def test_an_issuer_that_hangs_is_a_quick_503_and_is_asked_once(
    model: Neighbour, issuer: Neighbour
) -> None:
    """Found: each new token waited 11 s for an issuer that did not answer."""
    released = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await released.wait()
        return web.json_response(jwks("rsa"))

    issuer.on("/jwks", hang)
    async with guarded(model, issuer, wait_seconds=0.05) as proxy:
        asked = (ask(proxy, authorization=f"Bearer {token(sub=str(n))}") for n in range(8))
        for status, document, _ in await asyncio.gather(*asked):
            assert (status, document["type"]) == (503, "urn:slipway:problem:issuer-unavailable")
        assert len(issuer.seen) == 1
        assert (await ask(proxy, **{"x-api-key": "key-of-batch"}))[0] == 200
        released.set()

        async def accepted() -> bool:
            return (await ask(proxy, authorization=f"Bearer {token()}"))[0] == 200

        await eventually(accepted)
        assert len(issuer.seen) == 1


def _authenticator(fetch: Any) -> Authenticator:
    policy = JwtPolicy(issuer=ISSUER, audience=AUDIENCE, jwks_url="http://a/", wait_seconds=0)
    return Authenticator({}, policy, required=True, fetch_keys=fetch)


async def test_the_last_keys_hold_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [orjson.dumps(jwks("rsa"))]

    async def fetch(_: str) -> bytes:
        return answers.pop()  # and from then on the issuer is down

    auth = _authenticator(fetch)
    assert auth.policy is not None
    await auth._begin_refresh(auth.policy)
    later = time.monotonic()
    asked = [(b"authorization", f"Bearer {token()}".encode())]
    for after, status in ((0.0, None), (3500.0, None), (3700.0, 503)):
        moment = later + after
        monkeypatch.setattr(
            "proxy.policy.authentication.time.monotonic", lambda moment=moment: moment
        )
        auth._tokens.clear()
        try:
            caller = await auth.caller(asked, moment + 10)
            assert caller is not None and status is None, after
        except Problem as problem:
            assert problem.status == status, after
