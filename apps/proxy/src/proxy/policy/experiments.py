"""Sticky arms of an A/B test: the same user always gets the same arm. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from proxy.config.policies import Arm
from proxy.config.types import NAME
from proxy.http.request import Request
from proxy.settings import ProxySettings


def choose(user: str, arms: Sequence[Arm]) -> str:
    """The arm of a user: a hash of the name, spread over the weights.

    Changing a weight moves only as many users as the weight says.
    """
    total = sum(arm.weight for arm in arms)
    digest = hashlib.sha256(user.encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * total
    for arm in arms:
        point -= arm.weight
        if point < 0:
            return arm.name
    return arms[-1].name


def arm_of(settings: ProxySettings, request: Request) -> bytes:
    """The arm for a request, empty where there is none; an unnamed user is its address.

    A caller who sends ``X-Slipway-Arm`` chooses: one of the arms, or any name where the proxy
    draws none. The verifier's requests are no user's: none is drawn for them.
    """
    sent = request.header(b"x-slipway-arm")
    if sent is not None and re.match(NAME, text := sent.decode("latin-1")):
        if not settings.arms:
            return sent
        if any(arm.name == text for arm in settings.arms):
            request.extra.append((b"x-slipway-arm", sent))
            return sent
    if not settings.arms or request.probe:
        return b""
    if request.caller is not None:
        user = request.caller.name
    else:
        named = request.header(settings.user_header.lower().encode())
        user = named.decode("latin-1") if named else request.client
    arm = choose(user, settings.arms).encode()
    request.extra.append((b"x-slipway-arm", arm))
    return arm
