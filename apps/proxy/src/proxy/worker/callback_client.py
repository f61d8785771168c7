"""A signed request that reports a finished job to its caller's server."""

from __future__ import annotations

import hashlib
import hmac
import socket
import time

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from kit.http.problem import Problem
from proxy.config.policies import CallbackPolicy
from proxy.jobs.callback_urls import PrivateAddressError, check, is_public

SIGNATURE = "X-Slipway-Signature"


def sign(secret: str, body: bytes, *, now: int) -> str:
    """``t=<seconds>,v1=<hex>``: HMAC-SHA256 over the time, a dot and the body."""
    mac = hmac.new(secret.encode(), b"%d." % now + body, hashlib.sha256)
    return f"t={now},v1={mac.hexdigest()}"


class _Resolver(AbstractResolver):
    """Resolves as usual and refuses the private."""

    def __init__(self, *, allow_private: bool) -> None:
        self._inner = aiohttp.ThreadedResolver()
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if self._allow_private:
            return found
        public = [each for each in found if is_public(each["host"])]
        if not public:
            raise PrivateAddressError(f"{host} resolves to private addresses only")
        return public

    async def close(self) -> None:
        await self._inner.close()


class CallbackClient:
    """Makes callbacks."""

    def __init__(self, policy: CallbackPolicy, secret: str) -> None:
        self._policy = policy
        self._secret = secret
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(allow_private=policy.allow_private),
                use_dns_cache=False,
                force_close=True,
                limit=32,
            ),
            timeout=aiohttp.ClientTimeout(total=policy.timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def send(self, url: str, identity: str, body: bytes) -> str:
        """POST a job's document: ``sent``, ``refused`` (never to be repeated) or ``failed``.

        Redirects are not followed: they are a way around the allow-list.
        """
        try:
            check(url, self._policy)  # the settings may have changed since it was handed in
        except Problem:
            return "refused"
        headers = {
            "content-type": "application/json",
            "idempotency-key": identity,
            SIGNATURE: sign(self._secret, body, now=int(time.time())),
        }
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                if 200 <= answer.status < 300:
                    return "sent"
                return "refused" if answer.status == 410 else "failed"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, PrivateAddressError):
                    return "refused"
                cause = cause.__cause__
            return "failed"

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
