"""A model on a SageMaker endpoint, asked through boto3 in threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, TypeVar

import orjson
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from kit.http.problem import Problem
from proxy.config.backends import CachePolicy, SageMakerBackend
from proxy.http.resilience import Breaker, Concurrency, circuit_open
from proxy.models.backend import Answer, Asking
from proxy.models.metadata import Contract
from proxy.settings import ProxySettings
from proxy.telemetry.metrics import Metrics

T = TypeVar("T")

LARGEST_BODY = 6 * 1024 * 1024
BREAKING = frozenset({"unreachable", "timeout", "InternalFailure", "InternalServerException"})


class SageMakerModel:
    """InvokeEndpoint, with SageMaker's limits kept and its errors mapped."""

    has_contract = False
    cache: CachePolicy | None = None
    prepares_images = False

    def __init__(
        self, name: str, backend: SageMakerBackend, settings: ProxySettings, metrics: Metrics
    ) -> None:
        self.name = name
        self.settings = backend
        self._metrics = metrics
        self.concurrency = Concurrency(backend.max_concurrency, backend.caller_share)
        self.breaker = Breaker.of(backend, settings.timeout_seconds)
        self._threads = ThreadPoolExecutor(
            backend.max_concurrency, thread_name_prefix=f"sagemaker-{name}"
        )
        self._connect_timeout = settings.connect_timeout_seconds
        self._clients: dict[str, Any] = {}

    async def contract(self, asking: Asking) -> Contract:
        """SageMaker publishes none: the endpoint takes the caller's form."""
        raise Problem(
            400, "no-contract", f"{self.name} is on SageMaker, which publishes no contract"
        )

    async def infer(self, body: bytes, json_length: int | None, asking: Asking) -> Answer:
        """An infer request in JSON form, as any other body."""
        if json_length is not None:
            raise Problem(
                415, "unsupported-media-type", f"{self.name} is on SageMaker: send JSON tensors"
            )
        return await self.invoke(body, "application/json", "application/json", asking)

    async def invoke(self, body: bytes, content_type: str, accept: str, asking: Asking) -> Answer:
        """InvokeEndpoint; never repeated here: throttling must not become a storm."""
        if len(body) > LARGEST_BODY:
            raise Problem(
                413,
                "body-too-large",
                f"SageMaker takes at most {LARGEST_BODY} bytes; make it a job",
            )
        call: dict[str, Any] = {
            "EndpointName": self.settings.endpoint,
            "Body": body,
            "ContentType": content_type,
            "Accept": accept,
            "InferenceId": asking.request_id.decode()[:64],
            "CustomAttributes": (
                f"traceparent={asking.traceparent.decode()},request-id={asking.request_id.decode()}"
            ),
        }
        for key, value in (
            ("TargetVariant", self.settings.target_variant),
            ("TargetModel", self.settings.target_model),
            ("InferenceComponentName", self.settings.inference_component),
        ):
            if value:
                call[key] = value

        def work() -> Answer:
            answered = self._client("sagemaker-runtime").invoke_endpoint(**call)
            return Answer(
                200,
                {
                    "content-type": answered.get("ContentType", "application/octet-stream"),
                    "x-slipway-variant": answered.get("InvokedProductionVariant", ""),
                },
                answered["Body"].read(),
            )

        return await self._call(work, asking)

    async def state(self, asking: Asking) -> dict[str, str]:
        """DescribeEndpoint."""

        def work() -> dict[str, str]:
            answered = self._client("sagemaker").describe_endpoint(
                EndpointName=self.settings.endpoint
            )
            status = answered["EndpointStatus"]
            ready = status in ("InService", "Updating", "SystemUpdating")
            return {"state": "ready" if ready else "unavailable", "endpoint_status": status}

        try:
            return await self._call(work, asking)
        except Problem as problem:
            return {"state": "unavailable", "reason": problem.detail}

    async def run(self, work: Callable[[Any], Any], service: str) -> Any:
        """Any call of a boto3 client, in this model's threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(self._client(service)))

    async def _call(self, work: Callable[[], T], asking: Asking) -> T:
        loop = asyncio.get_running_loop()
        started = monotonic()
        if not self.breaker.allows(started):
            raise circuit_open(self.name, self.breaker.retry_after(started))
        if not self.concurrency.enter(asking.caller):
            self.breaker.abandon()
            raise self.concurrency.refusal(self.name)
        future = loop.run_in_executor(self._threads, work)
        future.add_done_callback(lambda _: self.concurrency.leave(asking.caller))
        left = min(asking.deadline - started, self.settings.timeout_seconds)
        try:
            answered = await asyncio.wait_for(asyncio.shield(future), left)
        except (TimeoutError, BotoCoreError, ClientError) as error:
            future.add_done_callback(lambda f: f.cancelled() or f.exception())
            now = monotonic()
            asking.upstream_seconds += now - started
            reason, problem = mapped(self.name, error)
            if isinstance(error, TimeoutError):
                self.breaker.record_late(now, left)
            else:
                self.breaker.record(now, failed=reason in BREAKING)
            self._metrics.upstream_failures.add(self.name, reason)
            raise problem from error
        except BaseException:
            self.breaker.abandon()
            raise
        now = monotonic()
        asking.upstream_seconds += now - started
        self.breaker.record(now, failed=False)
        self._metrics.upstream.observe(now - started, self.name, "200")
        return answered

    def _client(self, service: str) -> Any:
        client = self._clients.get(service)
        if client is None:
            import boto3  # a tenth of a second and 10 MB  # noqa: PLC0415

            client = boto3.session.Session().client(
                service,  # type: ignore[call-overload]
                region_name=self.settings.region or None,
                config=Config(
                    connect_timeout=self._connect_timeout,
                    read_timeout=self.settings.timeout_seconds,
                    retries={"total_max_attempts": 1},
                    max_pool_connections=self.settings.max_concurrency,
                ),
            )
            self._clients[service] = client
        return client

    def breakers(self) -> list[tuple[str, str]]:
        """The endpoint's breaker."""
        return [(self.settings.endpoint, self.breaker.state)]

    def in_flight(self) -> int:
        """Invocations under way."""
        return self.concurrency.in_flight

    def sweep(self) -> None:
        """boto3 looks after its own connections."""

    async def close(self) -> None:
        """Let go of the threads; what still runs ends with its own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def mapped(name: str, error: Exception) -> tuple[str, Problem]:
    """A SageMaker failure as (reason for the metrics, answer for the caller)."""
    if isinstance(error, TimeoutError | ReadTimeoutError):
        return "timeout", Problem(
            504, "deadline-exceeded", f"{name}: SageMaker did not answer in time; make it a job"
        )
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return "unreachable", Problem(
            503,
            "upstream-unreachable",
            f"{name}: SageMaker cannot be reached",
            headers={"retry-after": "2"},
        )
    if isinstance(error, NoCredentialsError):
        return "credentials", Problem(
            502, "backend-credentials", f"{name}: the proxy has no AWS credentials"
        )
    if isinstance(error, ClientError):
        return _client_error(name, error)
    return "upstream-error", Problem(502, "upstream-broken", f"{name}: {type(error).__name__}")


def _client_error(name: str, error: ClientError) -> tuple[str, Problem]:
    details = error.response.get("Error", {})
    code = details.get("Code", "")
    message = str(details.get("Message", ""))[:300]
    if code == "ModelError":
        original = error.response.get("OriginalStatusCode")
        said = str(error.response.get("OriginalMessage", ""))[:500]
        return code, Problem(
            502,
            "model-failed",
            f"{name}: the model's container failed" + (f": {said}" if said else ""),
            upstream_status=original,
            upstream_log=error.response.get("LogStreamArn", ""),
        )
    busy = {"ModelNotReadyException", "ThrottlingException", "Throttling", "ServiceUnavailable"}
    busy |= {"TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
    if code in busy:
        return code, Problem(
            503,
            "model-unavailable",
            f"{name}: SageMaker says {code}; try again later",
            headers={"retry-after": "5"},
        )
    if code == "ValidationError" and "not found" in message.lower():
        return code, Problem(503, "model-unavailable", f"{name}: {message}")
    if code in ("ValidationError", "ValidationException"):
        return code, Problem(400, "bad-input", f"{name}: {message}")
    if code in ("AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"):
        return code, Problem(502, "backend-credentials", f"{name}: SageMaker says {code}")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    return code or "InternalFailure", Problem(
        502, "upstream-broken", f"{name}: SageMaker says {code or status}", upstream_status=status
    )


def document_of(answer: Answer) -> dict[str, Any]:
    """What a container answered, JSON or text: our own fields where it speaks them."""
    try:
        result = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        result = answer.body.decode("utf-8", "replace")
    if isinstance(result, dict) and "label" in result and "probabilities" in result:
        return {
            key: result[key] for key in ("label", "probability", "probabilities") if key in result
        }
    return {"result": result}
