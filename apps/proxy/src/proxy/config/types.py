"""What all parts of the settings are made of."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} must begin with http:// or https://")
    if any(sign in value for sign in "?# \r\n"):
        raise ValueError(f"{value!r} must have no query, fragment or blanks")
    return value.rstrip("/")


def redis_url_of(value: str) -> str:
    if value and not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    try:
        _ = urlsplit(value).port
    except ValueError as error:
        raise ValueError(f"has no port that can be: {error}") from None
    return value


class Closed(BaseModel):
    """A JSON object that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
