"""Tokens and who issues them."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256


class Issuer:
    """Somebody whose tokens the gateway takes, with a key of its own."""

    def __init__(self, name: str) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = f"https://issuer.{name}.test"
        self.claims = {"iss": issuer, "aud": "slipway", "sub": "ann", "exp": int(time.time()) + 600}
        self.values = {
            "issuer": issuer,
            "audiences": ["slipway"],
            "jwks": json.dumps({"keys": [_public(self.key)]}),
            "publicPaths": ["/v2/health/*"],
        }


def _public(key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {
        "kty": "RSA",
        "kid": "scratch",
        "alg": "RS256",
        "use": "sig",
        "n": _text(numbers.n.to_bytes(256, "big")),
        "e": _text(numbers.e.to_bytes(3, "big")),
    }


def token(key: rsa.RSAPrivateKey | None, claims: dict[str, Any]) -> str:
    """A token; unsigned (``alg`` none) without a key."""
    header = {"alg": "RS256" if key else "none", "typ": "JWT", "kid": "scratch"}
    signed = ".".join(_text(json.dumps(part).encode()) for part in (header, claims))
    signature = key.sign(signed.encode(), padding.PKCS1v15(), SHA256()) if key else b""
    return f"{signed}.{_text(signature)}"


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
