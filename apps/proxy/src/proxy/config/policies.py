"""Who may ask and how often, how jobs are kept, where callbacks go, and who gets which arm."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from proxy.config.types import NAME, Closed, http_url


class JwtPolicy(Closed):
    """Which bearer tokens are believed. Only asymmetric algorithms: a JWKS is public.

    The issuer's keys are read in the background; where that fails, the last ones hold for
    `stale_seconds`. A token with a key that is not known waits `wait_seconds` for a reading.
    """

    issuer: str
    audience: str
    jwks_url: str
    algorithms: list[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]] = [  # noqa: RUF012
        "RS256",
        "ES256",
    ]
    scope_claim: str = "scope"
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    stale_seconds: Annotated[float, Field(gt=0)] = 3600.0
    wait_seconds: Annotated[float, Field(ge=0, le=10)] = 2.0

    _url = field_validator("jwks_url")(http_url)


class RateLimit(Closed):
    """At most `requests` in `window_seconds`, for each caller, over all pods together."""

    requests: Annotated[int, Field(gt=0)]
    window_seconds: Annotated[float, Field(ge=0.1)] = 60.0


class ApiKey(Closed):
    """A caller with a key: the SHA-256 of the key in hex, and what it may do.

    Scopes: `predict:<model>`, `jobs:<model>`, `api:<upstream>`, `*` for the part after the
    colon or for everything.
    """

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: list[str] = ["*"]  # noqa: RUF012
    rate_limit: RateLimit | None = None


class JobPolicy(Closed):
    """How jobs are kept, retried and given up, and how many event streams a pod keeps open.

    A job whose worker died is tried alone; it fails after `max_deaths_alone` workers more.
    """

    max_attempts: Annotated[int, Field(gt=0)] = 3
    max_deaths_alone: Annotated[int, Field(gt=0)] = 1
    backoff_seconds: Annotated[float, Field(gt=0)] = 1.0
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    deadline_seconds: Annotated[float, Field(gt=0)] = 900.0
    result_ttl_seconds: Annotated[float, Field(gt=0)] = 86400.0
    inline_bytes: Annotated[int, Field(gt=0)] = 262144
    chunk_rows: Annotated[int, Field(gt=0)] = 256
    max_followers: Annotated[int, Field(gt=0)] = 256
    bucket: str = ""
    prefix: str = "jobs"


class CallbackPolicy(Closed):
    """Which URLs a finished job may be reported to.

    `allow` holds URL prefixes. An address that is private, loopback or link-local is refused
    unless `allow_private` says otherwise.
    """

    allow: list[str] = Field(default_factory=list)
    allow_private: bool = False
    max_attempts: Annotated[int, Field(gt=0)] = 8
    timeout_seconds: Annotated[float, Field(gt=0)] = 10.0


class Arm(Closed):
    """An arm of an A/B test and its share of the users."""

    name: Annotated[str, Field(pattern=NAME)]
    weight: Annotated[int, Field(ge=0)]
