"""A model on a server of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic

import orjson

from kit.http.problem import Problem
from kit.memory.budget import BusyError
from kit.oip.messages import encode_request
from kit.oip.tensors import bytes_element
from proxy.config.backends import HttpBackend
from proxy.http import deadline as deadlines
from proxy.http.body import bodies_busy
from proxy.http.client import Pool
from proxy.http.connection import UpstreamError
from proxy.http.destination import Destination
from proxy.http.propagation import NOTHING, Carried
from proxy.models import metadata as contracts
from proxy.models.backend import Answer, Asking
from proxy.models.metadata import BadContractError, Contract
from proxy.settings import ProxySettings
from proxy.telemetry.metrics import Metrics

LARGEST_ANSWER = 256 * 1024 * 1024


class HttpModel:
    """A model on a server of the Open Inference Protocol."""

    has_contract = True

    def __init__(
        self,
        name: str,
        backend: HttpBackend,
        settings: ProxySettings,
        metrics: Metrics,
        tls: ssl.SSLContext | None = None,
        *,
        largest_answer: int = LARGEST_ANSWER,
        server: Destination | None = None,
    ) -> None:
        """``server`` is the destination that it shares with the other models there."""
        self.name = name
        self.settings = backend
        self.cache = backend.cache
        self.prepares_images = backend.prepare == "server"
        self._largest_answer = min(largest_answer, LARGEST_ANSWER)
        self.remote = backend.model or name
        self.destination = server or destination_of(name, backend, settings, metrics, tls)
        self.shares_destination = server is not None
        self._path = b"/v2/models/" + self.remote.encode()
        self._margin = settings.hop_margin_seconds
        self._ttl = settings.contract_ttl_seconds
        self._max_pixels = settings.max_image_pixels
        self._non_finite = settings.non_finite_outputs
        self._contract: Contract | None = None
        self._read_at = 0.0
        self._reading: asyncio.Task[Contract] | None = None

    async def contract(self, asking: Asking) -> Contract:
        """From memory for ``contract_ttl_seconds``; one reading at a time."""
        known = self.known_contract()
        if known is not None:
            return known
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(asking))
            self._reading.add_done_callback(self._read_done)
        if self._contract is not None and monotonic() - self._read_at < 10 * self._ttl:
            return self._contract  # an old one now rather than a wait for everybody
        return await asyncio.shield(self._reading)

    def known_contract(self) -> Contract | None:
        """The contract where it was read of late."""
        fresh = monotonic() - self._read_at < self._ttl
        return self._contract if fresh else None

    def _read_done(self, task: asyncio.Task[Contract]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # whoever waits for it has it

    async def _read(self, asking: Asking) -> Contract:
        answer = await self._ask(b"GET", b"", b"", asking)
        if answer.status != 200:
            raise Problem(
                503,
                "model-unavailable",
                f"{self.name}: its server answers {answer.status} for the model's metadata",
                headers={"retry-after": "2"},
            )
        try:
            contract = contracts.parse(
                orjson.loads(answer.body),
                name=self.name,
                max_pixels=self._max_pixels,
                non_finite=self._non_finite,
            )
        except (orjson.JSONDecodeError, BadContractError) as error:
            raise Problem(502, "bad-contract", f"{self.name}: {error}") from error
        self._contract = contract
        self._read_at = monotonic()
        return contract

    def expire_contract(self) -> None:
        """Read the contract anew at the next request: the model's version has changed."""
        self._read_at = -1e9

    async def infer(
        self, body: bytes, json_length: int | None, asking: Asking, *, rest: bytes = b"/infer"
    ) -> Answer:
        """POST …/infer; a prediction changes nothing, so it may be repeated."""
        more = b"content-type: application/json\r\n"
        if json_length is not None:
            more = (
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % json_length
            )
        answer = await self._ask(b"POST", rest, body, asking, more=more, carried=asking.carried)
        version = answer.headers.get("x-slipway-model-version")
        if version and self._contract is not None and version != self._contract.version:
            self.expire_contract()
        return answer

    async def invoke(self, body: bytes, content_type: str, accept: str, asking: Asking) -> Answer:
        """The raw payload as a BYTES tensor; the server prepares it."""
        contract = await self.contract(asking)
        name = contract.inputs[0].name
        framed, length = encode_request(
            {name: ("BYTES", (1,), bytes_element(body))}, identity=asking.request_id.decode()
        )
        return await self.infer(framed, length, asking)

    async def state(self, asking: Asking) -> dict[str, str]:
        """Asks the server whether the model is ready."""
        try:
            answer = await self._ask(b"GET", b"/ready", b"", asking)
        except Problem as problem:
            return {"state": "unavailable", "reason": problem.detail}
        if answer.status == 200:
            return {"state": "ready"}
        return {"state": "unavailable", "reason": f"its server answers {answer.status}"}

    async def _ask(
        self,
        method: bytes,
        rest: bytes,
        body: bytes,
        asking: Asking,
        *,
        more: bytes = b"",
        carried: Carried = NOTHING,
    ) -> Answer:
        target = carried.target(self._path + rest)

        def head(pool: Pool, left: float) -> bytes:
            lines = [
                method,
                b" ",
                pool.base_path,
                target,
                b" HTTP/1.1\r\nhost: ",
                pool.authority,
                b"\r\nx-request-id: ",
                asking.request_id,
                b"\r\ntraceparent: ",
                asking.traceparent,
                b"\r\nx-request-timeout: ",
                deadlines.passed_on(left, margin=self._margin),
                b"\r\ncontent-length: %d\r\n" % len(body),
                more,
                carried.lines(),
            ]
            if asking.arm:
                lines += (b"x-slipway-arm: ", asking.arm, b"\r\n")
            if asking.shadow:
                lines.append(b"x-slipway-shadow: true\r\n")
            if asking.probe:
                lines += (b"x-slipway-probe: ", asking.probe, b"\r\n")
            lines.append(b"\r\n")
            return b"".join(lines)

        started = monotonic()
        exchange = await self.destination.ask(
            head,
            body,
            deadline=min(asking.deadline, started + self.settings.timeout_seconds),
            repeatable=True,
            caller=asking.caller,
        )
        try:
            connection = exchange.connection
            data = await connection.body(self._largest_answer, asking.hold)
        except BusyError as error:
            raise bodies_busy(error) from None
        except UpstreamError as error:
            raise self.destination.problem(error) from error
        finally:
            exchange.end()
        seconds = monotonic() - started
        asking.upstream_seconds += seconds
        fields = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in connection.headers
        }
        return Answer(connection.status, fields, data, seconds)

    def breakers(self) -> list[tuple[str, str]]:
        """Address and breaker state of each target."""
        return self.destination.states()

    def in_flight(self) -> int:
        """Requests under way."""
        return self.destination.concurrency.in_flight

    def sweep(self) -> None:
        """Drop idle connections."""
        self.destination.sweep()

    async def close(self) -> None:
        """Close every connection."""
        if self._reading is not None:
            self._reading.cancel()
        if not self.shares_destination:
            self.destination.close()


def destination_of(
    name: str,
    backend: HttpBackend,
    settings: ProxySettings,
    metrics: Metrics,
    tls: ssl.SSLContext | None,
) -> Destination:
    """Where an ``http`` backend's requests go."""
    return Destination(
        name,
        backend.addresses(),
        backend,
        metrics,
        retry_ratio=settings.retry_ratio,
        connect_timeout=settings.connect_timeout_seconds,
        idle_seconds=settings.pool_idle_seconds,
        usual_timeout=settings.timeout_seconds,
        tls=tls,
    )
