"""What the proxy is told by its environment: `PROXY_…` variables, JSON where they nest."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from kit.settings import DecodingSettings, needed_by

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} must begin with http:// or https://")
    if any(sign in value for sign in "?# \r\n"):
        raise ValueError(f"{value!r} must have no query, fragment or blanks")
    return value.rstrip("/")


def _redis_url(value: str) -> str:
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


class Target(Closed):
    """One of several addresses of an `http` backend; `weight` is its share of the requests."""

    url: str
    weight: Annotated[int, Field(ge=0)] = 1

    _url = field_validator("url")(_http_url)


class CachePolicy(Closed):
    """Keep a model's answers in Redis: how long, spread by how much, and how large each may be.

    `vary` names the headers that choose the answer, because a rule of the routes looks at them.
    Unset, every header counts but those that clients, browsers and meshes send by themselves.
    """

    vary: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]] | None = None
    ttl_seconds: Annotated[float, Field(gt=0)] = 300.0
    jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    max_bytes: Annotated[int, Field(gt=0)] = 65536

    @cached_property
    def varying(self) -> tuple[bytes, ...] | None:
        """``vary`` as names of headers are compared."""
        return None if self.vary is None else tuple(one.lower().encode() for one in self.vary)


class Guard(Closed):
    """What protects one backend from its callers, and its callers from each other.

    One caller (credential, else address) has at most `caller_share` of `max_concurrency`.
    """

    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    max_concurrency: Annotated[int, Field(gt=0)] = 256
    caller_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    breaker_failures: Annotated[int, Field(gt=0)] = 20
    breaker_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    breaker_window_seconds: Annotated[float, Field(gt=0)] = 10.0
    breaker_open_seconds: Annotated[float, Field(gt=0)] = 5.0


class HttpBackend(Guard):
    """A server of the Open Inference Protocol in the cluster.

    `model` is the model's name there, where it differs from the key. With `models: discover` the
    key names a server and not a model: all of its models are served under their names there, as
    its repository index lists them. `prepare` says who turns an image into a tensor: the proxy
    (by the model's contract) or the server itself.
    """

    type: Literal["http"] = "http"
    url: str = ""
    targets: list[Target] = Field(default_factory=list)
    model: Annotated[str, Field(pattern=rf"{NAME}|^$")] = ""
    models: Literal["named", "discover"] = "named"
    prepare: Literal["proxy", "server"] = "proxy"
    cache: CachePolicy | None = None

    @model_validator(mode="after")
    def _addressed(self) -> HttpBackend:
        if bool(self.url) == bool(self.targets):
            raise ValueError("an http backend needs either `url` or `targets`, and not both")
        if self.model and self.models == "discover":
            raise ValueError("`model` names one model, and `models: discover` takes all: keep one")
        if self.url:
            _http_url(self.url)
        elif sum(target.weight for target in self.targets) == 0:
            raise ValueError("at least one of `targets` needs a weight above 0")
        return self

    def addresses(self) -> list[Target]:
        """The targets, one of them made of `url` where that is given."""
        return self.targets or [Target(url=self.url)]


class AsyncOutput(Closed):
    """Where SageMaker's asynchronous inference reads its input from and puts its answers to."""

    bucket: str
    prefix: str = "async"
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0


class SageMakerBackend(Guard):
    """A SageMaker endpoint; its own limits are 6 MB and 60 seconds for an invocation.

    `asynchronous` makes jobs go through InvokeEndpointAsync.
    """

    type: Literal["sagemaker"]
    endpoint: Annotated[str, Field(min_length=1, max_length=63)]
    region: str = ""
    target_variant: str = ""
    target_model: str = ""
    inference_component: str = ""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 60.0
    max_concurrency: Annotated[int, Field(gt=0)] = 32
    asynchronous: AsyncOutput | None = None


Backend = Annotated[HttpBackend | SageMakerBackend, Field(discriminator="type")]


class Rule(Closed):
    """Send a model's requests that carry these query parameters or headers to another backend.

    Every named parameter and header must have the given value; `*` stands for any.
    """

    model: str
    backend: str
    query: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _conditional(self) -> Rule:
        if not self.query and not self.headers:
            raise ValueError(f"the rule for {self.model} needs a condition: `query` or `headers`")
        return self


class Upstream(Closed):
    """Where `/api/<key>/…` goes. `paths` are prefixes below the key; empty allows every path.

    An answer or a WebSocket in which nothing moves for `idle_seconds` is ended.
    """

    url: str
    strip_prefix: bool = True
    methods: list[Method] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    paths: list[str] = Field(default_factory=list)
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    idle_seconds: Annotated[float, Field(gt=0)] = 300.0
    max_concurrency: Annotated[int, Field(gt=0)] = 256
    caller_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    forward_authorization: bool = False
    scope: str = ""

    _url = field_validator("url")(_http_url)


class JwtPolicy(Closed):
    """Which bearer tokens are believed. Only asymmetric algorithms: a JWKS is public.

    The issuer's keys are read in the background; where that fails, the last ones hold for
    `stale_seconds`. A token with a key that is not known waits `wait_seconds` for a reading.
    """

    issuer: str
    audience: str
    jwks_url: str
    algorithms: list[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]] = [
        "RS256",
        "ES256",
    ]
    scope_claim: str = "scope"
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0
    stale_seconds: Annotated[float, Field(gt=0)] = 3600.0
    wait_seconds: Annotated[float, Field(ge=0, le=10)] = 2.0

    _url = field_validator("jwks_url")(_http_url)


class ApiKey(Closed):
    """A caller with a key: the SHA-256 of the key in hex, and what it may do.

    Scopes: `predict:<model>`, `jobs:<model>`, `api:<upstream>`, `*` for the part after the
    colon or for everything.
    """

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: list[str] = ["*"]
    rate_limit: RateLimit | None = None


class RateLimit(Closed):
    """At most `requests` in `window_seconds`, for each caller, over all pods together."""

    requests: Annotated[int, Field(gt=0)]
    window_seconds: Annotated[float, Field(ge=0.1)] = 60.0


class Member(Closed):
    """A model in an ensemble. A hard member that fails fails the ensemble, a soft one is named."""

    model: str
    required: bool = True
    weight: Annotated[float, Field(gt=0)] = 1.0


class Ensemble(Closed):
    """Several models asked at once, their answers merged."""

    members: Annotated[list[Member], Field(min_length=1)]
    merge: Literal["vote", "mean", "named"] = "mean"
    timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    minimum: Annotated[int, Field(ge=1)] = 1


class Step(Closed):
    """One model of a pipeline. `inputs` renames the step before's outputs to this one's inputs."""

    model: str
    inputs: dict[str, str] = Field(default_factory=dict)


class Pipeline(Closed):
    """Models asked one after another, each given the outputs of the one before."""

    steps: Annotated[list[Step], Field(min_length=1)]
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0


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
    """Which URLs a finished job may be told to.

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


class ProxySettings(DecodingSettings):
    """Every setting of `proxy serve` and `proxy worker`."""

    model_config = SettingsConfigDict(env_prefix="PROXY_")

    backends: Annotated[
        dict[str, Backend],
        Field(
            description="Models and where they are served, by name: `http` or `sagemaker`. An "
            "`http` backend with `models: discover` is a server whose models are looked up there.",
            json_schema_extra=needed_by(shared=True),
        ),
    ] = Field(default_factory=dict)
    rules: Annotated[
        list[Rule],
        Field(
            description="Parameter-based serving: the first rule that fits picks the backend. "
            "Whoever may ask for the model may be sent on: the backend's scope is not asked for."
        ),
    ] = Field(default_factory=list)
    upstreams: Annotated[
        dict[str, Upstream],
        Field(description="What `/api/<key>/…` is passed on to; the longest key wins."),
    ] = Field(default_factory=dict)
    stage_prefixes: Annotated[
        list[str],
        Field(description="Path prefixes such as `/dev` that are taken off every request."),
    ] = Field(default_factory=list)
    ensembles: Annotated[
        dict[str, Ensemble],
        Field(
            description="Models asked at once: `/v1/ensembles/<name>`.",
            json_schema_extra=needed_by(shared=True),
        ),
    ] = Field(default_factory=dict)
    pipelines: Annotated[
        dict[str, Pipeline],
        Field(
            description="Models asked one after another: `/v1/pipelines/<name>`.",
            json_schema_extra=needed_by(shared=True),
        ),
    ] = Field(default_factory=dict)
    arms: Annotated[
        list[Arm],
        Field(description="Arms of an A/B test; a user always gets the same `X-Slipway-Arm`."),
    ] = Field(default_factory=list)
    user_header: Annotated[
        str, Field(description="Header that names the user where no credential does.")
    ] = "x-user-id"

    redis_url: Annotated[
        str,
        Field(
            description="Redis for jobs, cache and rate limits; empty switches them off.",
            json_schema_extra=needed_by("worker", shared=True),
        ),
    ] = ""
    redis_timeout_seconds: Annotated[
        float,
        Field(gt=0, description="How long cache and rate limits may wait for Redis."),
    ] = 0.05
    redis_prefix: Annotated[
        str,
        Field(
            description="What every Redis key begins with.",
            json_schema_extra=needed_by(shared=True),
        ),
    ] = "slipway"
    cache_memory_bytes: Annotated[
        int,
        Field(ge=0, description="What a pod keeps of the prediction cache in its own memory."),
    ] = 32 * 1024 * 1024
    data_ttl_seconds: Annotated[
        float, Field(gt=0, description="How long prepared inputs are kept (`/v1/data`).")
    ] = 3600.0
    jobs: Annotated[
        JobPolicy,
        Field(
            description="How jobs are kept and retried.", json_schema_extra=needed_by(shared=True)
        ),
    ] = JobPolicy()
    callbacks: Annotated[
        CallbackPolicy, Field(description="Where finished jobs may be announced.")
    ] = CallbackPolicy()
    callback_secret: Annotated[
        SecretStr, Field(description="Signs callbacks (HMAC-SHA256), at least 16 characters.")
    ] = SecretStr("")
    worker_concurrency: Annotated[
        int, Field(gt=0, description="Jobs a worker runs side by side.")
    ] = 32

    auth_required: Annotated[
        bool, Field(description="Refuse requests without a valid credential (401).")
    ] = False
    jwt: Annotated[
        JwtPolicy | None, Field(description="Bearer tokens: issuer, audience and JWKS.")
    ] = None
    api_keys: Annotated[
        dict[str, ApiKey],
        Field(description="Callers with API keys, by name: hash, scopes, rate limit."),
    ] = Field(default_factory=dict)
    rate_limit: Annotated[
        RateLimit | None,
        Field(description="Limit for each caller (credential, else address)."),
    ] = None
    trusted_hops: Annotated[
        int,
        Field(ge=0, description="Proxies in front whose `X-Forwarded-For` entries are believed."),
    ] = 1

    max_body_bytes: Annotated[
        int, Field(gt=0, description="Largest request body, counted as it arrives (413 above).")
    ] = 32 * 1024 * 1024
    max_open_requests: Annotated[
        int,
        Field(
            ge=256,
            description="Most requests under way: a bound of memory. How many there may be below "
            "it follows target_turn_ms; past them callers get 429 before anything is parsed.",
        ),
    ] = 4096
    target_turn_ms: Annotated[
        float,
        Field(
            gt=0,
            description="Longest the event loop should take to get round to everything that is "
            "ready. While it takes longer, fewer requests may be open, and at least 256.",
        ),
    ] = 40.0
    timeout_seconds: Annotated[
        float, Field(gt=0, description="Deadline of a request that names none.")
    ] = 30.0
    max_timeout_seconds: Annotated[
        float, Field(gt=0, description="Longest deadline a caller may ask for.")
    ] = 300.0
    hop_margin_seconds: Annotated[
        float,
        Field(ge=0, description="What a deadline is shortened by when it is passed on."),
    ] = 0.01
    upload_bytes_per_second: Annotated[
        int,
        Field(
            gt=0,
            description="A body that is streamed on (above 1 MiB) must come at least this fast: "
            "it keeps a backend's connection while it does.",
        ),
    ] = 65536
    connect_timeout_seconds: Annotated[
        float, Field(gt=0, description="How long a connection to a backend may take.")
    ] = 2.0
    ca_file: Annotated[
        FilePath | None,
        Field(
            description="PEM file of the authorities that `https` backends, upstreams and issuers "
            "are verified by, in place of the machine's."
        ),
    ] = None
    retry_ratio: Annotated[
        float,
        Field(ge=0, le=1, description="Retries allowed, as a share of the requests of late."),
    ] = 0.1
    pool_idle_seconds: Annotated[
        float, Field(gt=0, description="How long an idle connection to a backend is kept.")
    ] = 30.0
    contract_ttl_seconds: Annotated[
        float, Field(gt=0, description="How long a model's contract is believed.")
    ] = 30.0
    discovery_seconds: Annotated[
        float,
        Field(
            ge=1,
            description="How often the servers with `models: discover` are asked which they have.",
            json_schema_extra=needed_by(shared=True),
        ),
    ] = 5.0
    non_finite_outputs: Annotated[
        Literal["null", "string", "error"],
        Field(
            description="What JSON answers hold for NaN and infinities: `null`, `string` (NaN, "
            "Infinity, -Infinity), or `error` (no answer); X-Slipway-Non-Finite counts them."
        ),
    ] = "null"
    access_log: Annotated[
        Literal["all", "errors", "off"], Field(description="Which requests are logged.")
    ] = "all"

    _redis = field_validator("redis_url")(_redis_url)

    @model_validator(mode="after")
    def _consistent(self) -> ProxySettings:
        known = {name for name, one in self.backends.items() if not discovers(one)}
        for place, model in self.models_named():
            # Which models there are is known only later where servers are asked for them.
            if model not in known and not any(map(discovers, self.backends.values())):
                raise ValueError(
                    f"{place} names {model!r}, which is not in PROXY_BACKENDS "
                    f"({', '.join(sorted(known)) or 'empty'})"
                )
        if self.callbacks.allow and len(self.callback_secret.get_secret_value()) < 16:
            raise ValueError(
                "PROXY_CALLBACKS allows callbacks, which are signed: set PROXY_CALLBACK_SECRET "
                "to at least 16 characters"
            )
        if self.arms and sum(arm.weight for arm in self.arms) == 0:
            raise ValueError("PROXY_ARMS needs at least one weight above 0")
        for prefix in self.stage_prefixes:
            if not prefix.startswith("/") or prefix.endswith("/"):
                raise ValueError(f"PROXY_STAGE_PREFIXES: {prefix!r} must look like `/dev`")
        for key in self.upstreams:
            if key.strip("/") != key:
                raise ValueError(f"PROXY_UPSTREAMS: write {key!r} without its outer slashes")
        return self

    def models_named(self) -> list[tuple[str, str]]:
        """Where rules, ensembles and pipelines name a model, and which."""
        named = [(f"rules[{n}].model", rule.model) for n, rule in enumerate(self.rules)]
        named += [(f"rules[{n}].backend", rule.backend) for n, rule in enumerate(self.rules)]
        for name, ensemble in self.ensembles.items():
            named += [(f"ensembles.{name}", member.model) for member in ensemble.members]
        for name, pipeline in self.pipelines.items():
            named += [(f"pipelines.{name}", step.model) for step in pipeline.steps]
        return named


def discovers(backend: Backend) -> bool:
    """Whether a backend is a server whose models are looked up there."""
    return isinstance(backend, HttpBackend) and backend.models == "discover"


ApiKey.model_rebuild()
