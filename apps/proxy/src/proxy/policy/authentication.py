"""Who asks: API keys, kept as hashes, and bearer tokens, checked against the issuer's keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt

from kit.http.problem import Problem
from kit.telemetry import logs
from proxy.config.policies import ApiKey, JwtPolicy
from proxy.http import headers
from proxy.http.request import Caller, Request

log = logs.get("proxy.auth")

REMEMBERED = 4096
REMEMBERED_SECONDS = 60.0
REFRESH_SECONDS = 300.0
RETRY_SECONDS = 10.0

FetchKeys = Callable[[str], Awaitable[bytes]]


@dataclass(slots=True)
class _Remembered:
    caller: Caller
    until: float


def unauthorized(detail: str, *, error: str = "invalid_token") -> Problem:
    """401 with the challenge RFC 6750 asks for."""
    challenge = 'Bearer realm="slipway"' + (f', error="{error}"' if error else "")
    return Problem(401, "unauthorized", detail, headers={"www-authenticate": challenge})


def forbidden(caller: Caller, action: str, thing: str) -> Problem:
    """403 that names the scope that is missing."""
    return Problem(
        403,
        "forbidden",
        f"{caller.name} may not do this: it needs the scope `{action}:{thing}`",
        headers={
            "www-authenticate": 'Bearer realm="slipway", error="insufficient_scope", '
            f'scope="{action}:{thing}"'
        },
    )


def allow(request: Request, action: str, thing: str) -> None:
    """Problem 403 where the caller's scopes do not cover ``action:thing``.

    A request that nobody admitted is allowed nothing: a route that forgot to ask for the
    credential fails here instead of answering.
    """
    if not request.admitted:
        raise unauthorized("the request's credential was not checked", error="")
    if request.caller is not None and not request.caller.may(action, thing):
        raise forbidden(request.caller, action, thing)


def issuer_unavailable() -> Problem:
    """503 where a token cannot be checked for want of the issuer's keys."""
    return Problem(
        503,
        "issuer-unavailable",
        "the issuer's keys could not be read; the token cannot be checked now",
        headers={"retry-after": "5"},
    )


@dataclass(slots=True)
class Authenticator:
    """Makes a Caller of a request's credential."""

    keys: dict[str, ApiKey]
    policy: JwtPolicy | None
    required: bool
    fetch_keys: FetchKeys
    _by_hash: dict[str, Caller] = field(init=False)
    _seen: dict[bytes, Caller] = field(init=False, default_factory=dict, repr=False)
    _tokens: dict[bytes, _Remembered] = field(init=False, default_factory=dict)
    _jwks: dict[str, jwt.PyJWK] = field(init=False, default_factory=dict)
    _read_at: float = field(init=False, default=float("-inf"))
    _tried_at: float = field(init=False, default=float("-inf"))
    _failed: bool = field(init=False, default=False)
    _refreshing: asyncio.Task[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._by_hash = {
            key.sha256: Caller(f"key:{name}", frozenset(key.scopes), key.rate_limit)
            for name, key in self.keys.items()
        }

    async def caller(
        self, request_headers: list[tuple[bytes, bytes]], deadline: float
    ) -> Caller | None:
        """The caller; None where there is no credential and none is needed. Problem 401 else.

        A proxy that knows no credentials leaves those it sees to the upstreams. An issuer is
        waited for until ``deadline`` (`time.monotonic`), and then 503.
        """
        found = self.known_caller(request_headers)
        if not isinstance(found, bytes):
            return found
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._by_token(found)
        except TimeoutError:
            raise issuer_unavailable() from None

    def known_caller(self, request_headers: list[tuple[bytes, bytes]]) -> Caller | bytes | None:
        """``caller`` as far as nobody need be waited for: a token to verify stays bytes."""
        if not self.required and not self._by_hash and self.policy is None:
            return None
        key = headers.get(request_headers, b"x-api-key")
        authorization = headers.get(request_headers, b"authorization")
        if key is not None and authorization is not None:
            raise unauthorized("send either X-API-Key or Authorization, not both")
        if key is not None:
            return self._by_key(key)
        if authorization is not None:
            scheme, _, token = authorization.partition(b" ")
            if scheme.lower() != b"bearer" or not token.strip():
                raise unauthorized("Authorization must be `Bearer <token>`", error="")
            return self._remembered(token.strip())
        if self.required:
            raise unauthorized(
                "this needs a credential: `X-API-Key: <key>` or `Authorization: Bearer <token>`",
                error="",
            )
        return None

    def _by_key(self, key: bytes) -> Caller:
        # Both look-ups go by a hash of a long random key, the first by the interpreter's own
        # keyed one: their timing tells nothing about keys.
        caller = self._seen.get(key)
        if caller is None:
            caller = self._by_hash.get(hashlib.sha256(key).hexdigest())
            if caller is None:
                raise unauthorized("the API key is not known")
            self._seen[key] = caller
        return caller

    def _remembered(self, token: bytes) -> Caller | bytes:
        if self.policy is None:
            return self._by_key(token)  # keys may be sent as bearer tokens, as OpenAI's are
        remembered = self._tokens.get(hashlib.sha256(token).digest())
        if remembered is not None and time.time() < remembered.until:
            return remembered.caller
        return token if token.count(b".") == 2 else self._by_key(token)

    async def _by_token(self, token: bytes) -> Caller:
        assert self.policy is not None  # without one every token is a key
        caller, expires = await self._verify(token, self.policy)
        if len(self._tokens) >= REMEMBERED:
            self._tokens.clear()
        self._tokens[hashlib.sha256(token).digest()] = _Remembered(
            caller, min(expires, time.time() + REMEMBERED_SECONDS)
        )
        return caller

    async def _verify(self, token: bytes, policy: JwtPolicy) -> tuple[Caller, float]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise unauthorized(f"the token is not a JWT: {error}") from None
        if header.get("alg") not in policy.algorithms:
            raise unauthorized(f"tokens must be signed with one of {', '.join(policy.algorithms)}")
        key = await self._key(header.get("kid"), policy)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(policy.algorithms),
                issuer=policy.issuer,
                audience=policy.audience,
                leeway=policy.leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise unauthorized("the token has expired; get a new one") from None
        except jwt.InvalidTokenError as error:
            raise unauthorized(f"the token is not accepted: {error}") from None
        except (TypeError, ValueError) as error:  # a key of another kind than the algorithm's
            raise unauthorized(f"the token is not accepted: {error}") from None
        try:
            return (
                Caller(f"sub:{subject(claims)}", scopes(claims, policy.scope_claim)),
                float(claims["exp"]) + policy.leeway_seconds,
            )
        except (OverflowError, ValueError) as error:  # of 400 digits, or no subject
            raise unauthorized(f"the token is not accepted: {error}") from None

    async def keep_fresh(self) -> None:
        """Read the issuer's keys now and again, so that no request waits for it. Never ends."""
        if self.policy is None:
            return
        while True:
            await asyncio.shield(self._begin_refresh(self.policy))
            await asyncio.sleep(RETRY_SECONDS if self._failed else REFRESH_SECONDS)

    async def _key(self, kid: object, policy: JwtPolicy) -> jwt.PyJWK:
        """The key a token names, from memory wherever it is there.

        For a key that is not there the issuer is waited for, but only for ``wait_seconds`` of
        one reading: one that hangs costs the first callers that long, and the others nothing.
        """
        now = time.monotonic()
        if now - self._read_at > policy.stale_seconds:
            self._jwks = {}  # they may have been withdrawn long ago
        key = self._find(kid)
        if key is not None:
            return key
        # An unknown kid must not let anybody make us ask the issuer at will.
        if self._refreshing is None and now - self._tried_at > RETRY_SECONDS:
            self._begin_refresh(policy)
        if self._refreshing is not None:
            left = self._tried_at + policy.wait_seconds - now
            try:
                async with asyncio.timeout(max(0.0, left)):
                    await asyncio.shield(self._refreshing)  # others wait for it too
            except TimeoutError:
                raise issuer_unavailable() from None
            key = self._find(kid)
        if key is None and (self._failed or not self._jwks):
            raise issuer_unavailable()
        if key is None:
            raise unauthorized("the token is signed with a key the issuer does not publish")
        return key

    def _begin_refresh(self, policy: JwtPolicy) -> asyncio.Task[None]:
        """Read the issuer's keys in the background, one reading at a time."""
        if self._refreshing is None:
            self._tried_at = time.monotonic()
            self._refreshing = asyncio.create_task(self._refresh(policy))
            self._refreshing.add_done_callback(self._refreshed)
        return self._refreshing

    def _find(self, kid: object) -> jwt.PyJWK | None:
        if isinstance(kid, str):
            return self._jwks.get(kid)
        return next(iter(self._jwks.values())) if len(self._jwks) == 1 and kid is None else None

    def _refreshed(self, _: asyncio.Task[None]) -> None:
        self._refreshing = None

    async def _refresh(self, policy: JwtPolicy) -> None:
        try:
            document = json.loads(await self.fetch_keys(policy.jwks_url))
            keys: dict[str, jwt.PyJWK] = {}
            for position, item in enumerate(document["keys"]):
                if item.get("use", "sig") != "sig" or item.get("kty") == "oct":
                    continue
                try:
                    keys[str(item.get("kid", position))] = jwt.PyJWK(item)
                except jwt.PyJWTError as error:
                    log.warning("issuer key skipped", kid=item.get("kid"), reason=str(error))
            if not keys:
                raise ValueError("it publishes no usable key")
        except Exception as error:  # whatever it is, the keys we have are better than none
            log.warning("issuer keys not read", url=policy.jwks_url, reason=repr(error))
            self._failed = True
            return
        self._failed = False
        self._jwks = keys
        self._read_at = time.monotonic()
        self._tokens.clear()  # a key that was withdrawn takes its tokens with it


def subject(claims: dict[str, Any]) -> str:
    """Whose token it is. ValueError where that is nobody, or text that cannot be written down.

    JSON can hold half of a surrogate pair; no log, answer or key can.
    """
    found = str(claims["sub"])
    if not found.strip():
        raise ValueError("its subject (sub) is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in found):
        raise ValueError("its subject (sub) is no text: it holds half of a surrogate pair")
    return found


def scopes(claims: dict[str, Any], claim: str) -> frozenset[str]:
    """The scopes in a token: a string with blanks between them (RFC 8693), or a list."""
    value = claims.get(claim, "")
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list):
        return frozenset(str(item) for item in value)
    return frozenset()
