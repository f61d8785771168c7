"""The proxy's settings, from its environment: `PROXY_…` variables, JSON where they nest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FilePath, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from kit.settings import DecodingSettings, needed_by
from proxy.config.backends import Backend, Rule, Upstream, discovers
from proxy.config.compositions import Ensemble, Pipeline
from proxy.config.policies import ApiKey, Arm, CallbackPolicy, JobPolicy, JwtPolicy, RateLimit
from proxy.config.types import redis_url_of


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
        Field(description="Path prefixes such as `/dev` that are removed from every path."),
    ] = Field(default_factory=list)
    ensembles: Annotated[
        dict[str, Ensemble],
        Field(
            description="Models asked side by side: `/v1/ensembles/<name>`.",
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
            "are verified by, instead of the machine's."
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

    _redis = field_validator("redis_url")(redis_url_of)

    @model_validator(mode="after")
    def _consistent(self) -> ProxySettings:
        known = {name for name, one in self.backends.items() if not discovers(one)}
        for setting, model in self.models_named():
            # Which models there are is known only later where servers are asked for them.
            if model not in known and not any(map(discovers, self.backends.values())):
                raise ValueError(
                    f"{setting} names {model!r}, which is not in PROXY_BACKENDS "
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
