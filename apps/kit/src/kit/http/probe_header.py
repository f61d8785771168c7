"""``X-Slipway-Probe``: the mark of a request that `release verify` makes, and who may set it.

Such a request is no user's: the prediction log, the metrics that objectives are made of and A/B
tests leave it out. So nobody but the verifier may set the mark. It is the time and a signature
of it, HMAC-SHA256 by a key that the verifier and the services share (``SLIPWAY_PROBE_KEY``), and
counts for some minutes. A mark that is not believed is dropped, and the request counts.
"""

from __future__ import annotations

import hashlib
import hmac
import re

PROBE = b"x-slipway-probe"
VALID_SECONDS = 300
"""How far the signature's time may be from now, either way: clocks differ."""

_MARK = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})")


def mark(key: str, now: float) -> str:
    """The header's value at ``now`` (seconds since the epoch)."""
    seconds = str(int(now))
    return f"{seconds}.{_signature(key, seconds)}"


def is_believed(value: bytes | None, key: str, now: float) -> bool:
    """Whether a request's header was made with the key, at about ``now``; never without a key."""
    if value is None or not key:
        return False
    found = _MARK.fullmatch(value.decode("latin-1"))
    if found is None or abs(now - int(found[1])) > VALID_SECONDS:
        return False
    return hmac.compare_digest(found[2], _signature(key, found[1]))


def _signature(key: str, seconds: str) -> str:
    return hmac.new(key.encode(), f"slipway-probe:{seconds}".encode(), hashlib.sha256).hexdigest()
