"""One prediction from end to end, for callers who wait and for jobs alike."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import orjson
import redis.asyncio as redis

from kit.http.problem import Problem
from kit.json_names import repeated_name
from kit.memory.budget import Budget, BusyError, TooCostlyError
from kit.pictures.pool import Decoding
from proxy.http.body import bodies_busy
from proxy.http.propagation import choosing, key_of_choice
from proxy.models.backend import Asking, ModelBackend
from proxy.models.metadata import Contract
from proxy.models.sagemaker import document_of
from proxy.predictions.answers import Prediction
from proxy.predictions.cache import Made, PredictionCache, key_of
from proxy.predictions.inputs import JSON, Prepared
from proxy.predictions.predict import predict, shown
from proxy.predictions.prepare import prepare
from proxy.settings import ProxySettings
from proxy.store.redis import Store
from proxy.store.redis import key_of as redis_key_of

REFERENCE = re.compile(r"^[0-9a-f]{32}\Z")
LARGEST_REFERENCE = 16 * 1024  # however it is indented
OnProgress = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Outcome:
    """A prediction as its JSON object (without a request id), and where it came from."""

    document: dict[str, Any]
    cache: str = ""
    queue_ms: str = ""
    compute_ms: str = ""

    @property
    def variant(self) -> str:
        """Which release answered."""
        return str(self.document.get("variant", ""))


class Predictor:
    """Prepares, looks into the cache, asks, interprets."""

    def __init__(
        self, settings: ProxySettings, store: Store, cache: PredictionCache, bodies: Budget
    ) -> None:
        self._settings = settings
        self._store = store
        self._cache = cache
        self._bodies = bodies
        self.decoding = Decoding(
            settings.decode_memory_bytes, wait_seconds=settings.decode_wait_seconds
        )

    def close(self) -> None:
        """Decode nothing more."""
        self.decoding.close()

    async def run(
        self,
        backend: ModelBackend,
        kind: str,
        payload: bytes,
        asking: Asking,
        *,
        owner: str = "",
        cache_control: bytes = b"",
        chunk_rows: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Outcome:
        """Predict for one payload. Problem for whatever stands in the way.

        With ``chunk_rows`` a large batch is asked for in parts, and ``on_progress`` gets
        the share that is done; a model whose rows may depend on each other gets all together.
        """
        if not backend.has_contract:
            answer = await backend.invoke(payload, kind, JSON, asking)
            return Outcome(
                {
                    "model": backend.name,
                    "version": "",
                    "variant": answer.headers.get("x-slipway-variant", ""),
                    "pod": "",
                    **document_of(answer),
                }
            )
        contract = await backend.contract(asking)
        prepared = await self.prepared(backend, kind, payload, contract, owner)
        async with self.holding(prepared, backend.name):
            return await self._ask(
                backend,
                contract,
                prepared,
                asking,
                cache_control=cache_control,
                chunk_rows=chunk_rows,
                on_progress=on_progress,
            )

    @asynccontextmanager
    async def holding(self, prepared: Prepared, model: str) -> AsyncIterator[None]:
        """Memory for an input's tensors and the request made of them. Problem 413 or 429."""
        try:
            async with self._bodies.room(2 * prepared.size, "the input as tensors"):
                yield
        except BusyError as error:
            raise bodies_busy(error) from None
        except TooCostlyError as error:
            raise Problem(413, "body-too-large", f"{model}: {error}") from None

    async def _ask(
        self,
        backend: ModelBackend,
        contract: Contract,
        prepared: Prepared,
        asking: Asking,
        *,
        cache_control: bytes,
        chunk_rows: int | None,
        on_progress: OnProgress | None,
    ) -> Outcome:
        if chunk_rows and contract.rows_independent and prepared.rows > chunk_rows:
            return await self._in_parts(
                backend, contract, prepared, asking, rows=chunk_rows, on_progress=on_progress
            )
        policy = backend.cache
        if policy is None:
            return await self._fresh(backend, contract, prepared, asking)
        fresh: list[Outcome] = []

        async def make() -> Made:
            outcome = await self._fresh(backend, contract, prepared, asking)
            fresh.append(outcome)
            # While two versions serve side by side, only the one the key names is kept.
            keep = outcome.document["version"] == contract.version
            return Made(orjson.dumps(outcome.document), keep=keep)

        data, result = await self._cache.answer(
            backend.name,
            policy,
            prediction_key(backend.name, contract, prepared, asking, policy.varying),
            make,
            deadline=asking.deadline,
            cache_control=cache_control,
        )
        if fresh:
            fresh[0].cache = result
            return fresh[0]
        return Outcome(orjson.loads(data), cache=result)

    async def _fresh(
        self, backend: ModelBackend, contract: Contract, prepared: Prepared, asking: Asking
    ) -> Outcome:
        prediction = await predict(backend, contract, prepared, asking, self.decoding)
        return Outcome(
            await shown(prediction, self.decoding),
            queue_ms=prediction.queue_ms,
            compute_ms=prediction.compute_ms,
        )

    async def prepared(
        self, backend: ModelBackend, kind: str, payload: bytes, contract: Contract, owner: str
    ) -> Prepared:
        """The input as tensors: from the payload, or kept earlier and named by reference."""
        if kind == JSON and len(payload) <= LARGEST_REFERENCE and b'"reference"' in payload:
            try:
                document = orjson.loads(payload)
            except orjson.JSONDecodeError:
                document = None
            if (
                isinstance(document, dict)
                and set(document) == {"reference"}
                and (repeated_name(payload, document) is None)
            ):
                return await self._referred(str(document["reference"]), backend.name, owner)
        return await self._prepare(payload, kind, contract, backend)

    async def _prepare(
        self, payload: bytes, kind: str, contract: Contract, backend: ModelBackend
    ) -> Prepared:
        return await prepare(
            payload, kind, contract, self.decoding, on_server=backend.prepares_images
        )

    async def keep(
        self, backend: ModelBackend, kind: str, payload: bytes, asking: Asking, owner: str
    ) -> dict[str, Any]:
        """Prepare an input and keep it; the same input has the same reference."""
        if not backend.has_contract:
            raise Problem(
                400, "bad-input", f"{backend.name} is on SageMaker, which prepares its own inputs"
            )
        contract = await backend.contract(asking)
        prepared = await self._prepare(payload, kind, contract, backend)
        reference = key_of(prepared.canonical())[:32]
        client = self._store.need()
        seconds = self._settings.data_ttl_seconds
        try:
            await client.set(
                self._data_key(backend.name, owner, reference),
                prepared.dump(),
                px=round(seconds * 1000),
            )
        except (redis.RedisError, OSError) as error:
            raise _data_unavailable() from error
        return {
            "reference": reference,
            "model": backend.name,
            "rows": prepared.rows,
            "expires_in_seconds": seconds,
        }

    async def _referred(self, reference: str, model: str, owner: str) -> Prepared:
        client = self._store.need()
        if not REFERENCE.match(reference):
            raise _unknown_reference(reference, model)
        try:
            data = cast(bytes | None, await client.get(self._data_key(model, owner, reference)))
        except (redis.RedisError, OSError) as error:
            raise _data_unavailable() from error
        if data is None:
            raise _unknown_reference(reference, model)
        return Prepared.load(data)

    def _data_key(self, model: str, owner: str, reference: str) -> str:
        return f"{self._store.prefix}:data:{redis_key_of(model, owner, reference)}"

    async def _in_parts(
        self,
        backend: ModelBackend,
        contract: Contract,
        prepared: Prepared,
        asking: Asking,
        *,
        rows: int,
        on_progress: OnProgress | None,
    ) -> Outcome:
        merged: list[bytes] = []
        non_finite = 0
        last: Prediction | None = None
        for start in range(0, prepared.rows, rows):
            part = prepared.part(start, start + rows)
            last = await predict(backend, contract, part, asking, self.decoding)
            written = orjson.dumps(last.rows())[1:-1]
            asking.hold(2 * len(written))  # until the rows of all parts are written
            merged.append(written)
            non_finite += last.non_finite
            if on_progress is not None:
                await on_progress(min(1.0, (start + rows) / prepared.rows))
        assert last is not None
        said = {"non_finite": non_finite} if non_finite else {}
        predictions = orjson.Fragment(b"[" + b",".join(merged) + b"]")
        return Outcome({**last.head, "predictions": predictions, **said})


def prediction_key(
    model: str,
    contract: Contract,
    prepared: Prepared,
    asking: Asking,
    vary: tuple[bytes, ...] | None,
) -> str:
    """Model, version, arm, what else may choose the answer, and canonical input."""
    choice = choosing(asking.carried.headers, asking.carried.query, vary)
    return key_of(
        b"predict",
        model.encode(),
        contract.version.encode(),
        contract.digest.encode(),
        asking.arm,
        key_of_choice(choice),
        prepared.canonical(),
    )


def _unknown_reference(reference: str, model: str) -> Problem:
    return Problem(
        404,
        "unknown-reference",
        f"there is no prepared input {reference[:64]!r} for {model}, or it has expired; "
        "a reference is the 32 hex digits that `/v1/data` answered",
    )


def _data_unavailable() -> Problem:
    return Problem(
        503,
        "data-unavailable",
        "Redis, which keeps prepared inputs, does not answer; send the input itself",
        headers={"retry-after": "2"},
    )
