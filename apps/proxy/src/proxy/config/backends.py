"""Backends and upstreams: where models and other services are, and what protects them."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from proxy.config.types import NAME, Closed, Method, http_url


class Target(Closed):
    """One of several addresses of an `http` backend; `weight` is its share of the requests."""

    url: str
    weight: Annotated[int, Field(ge=0)] = 1

    _url = field_validator("url")(http_url)


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
    its repository index lists them. `prepare` says who makes a tensor of an image: the proxy
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
            http_url(self.url)
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
    methods: list[Method] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # noqa: RUF012
    paths: list[str] = Field(default_factory=list)
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    idle_seconds: Annotated[float, Field(gt=0)] = 300.0
    max_concurrency: Annotated[int, Field(gt=0)] = 256
    caller_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    forward_authorization: bool = False
    scope: str = ""

    _url = field_validator("url")(http_url)


def discovers(backend: Backend) -> bool:
    """Whether a backend is a server whose models are looked up there."""
    return isinstance(backend, HttpBackend) and backend.models == "discover"
