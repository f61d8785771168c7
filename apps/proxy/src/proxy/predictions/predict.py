"""A prepared input asked of a model: one answer, as arrays and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kit.http.problem import Problem
from kit.oip.messages import encode_request
from kit.pictures.pool import BusyError, Decoding, TooCostlyError, json_memory
from proxy.http.headers import length_of
from proxy.models.backend import Answer, Asking, ModelBackend
from proxy.models.metadata import Contract
from proxy.predictions.answers import Prediction, interpret
from proxy.predictions.inputs import Prepared
from proxy.predictions.prepare import INLINE_BYTES, INLINE_MEMORY


async def predict(
    backend: ModelBackend,
    contract: Contract,
    prepared: Prepared,
    asking: Asking,
    decoding: Decoding,
) -> Prediction:
    """Ask a model of the Open Inference Protocol. Problem 400, 429, 502, 503 or 504."""
    body, length = encode_request(prepared.inputs, identity=asking.request_id.decode())
    answer = await backend.infer(body, length, asking)
    if len(answer.body) <= INLINE_BYTES:
        return interpret(answer, contract, prepared.rows)
    with _shown(contract.model):
        return await decoding.run(
            _answer_memory(answer), "the model's answer",
            interpret, answer, contract, prepared.rows,
        )  # fmt: skip


async def shown(prediction: Prediction, decoding: Decoding) -> dict[str, Any]:
    """A prediction's document, made in a thread where it is large. Problem 400 or 429."""
    memory = prediction.memory
    if memory <= INLINE_MEMORY:
        return prediction.document()
    with _shown(prediction.model):
        return await decoding.run(memory, "the answer as JSON", prediction.written)


@contextmanager
def _shown(model: str) -> Iterator[None]:
    """What an answer takes too much memory for, as a Problem."""
    try:
        yield
    except TooCostlyError as error:
        raise Problem(
            400,
            "answer-too-large",
            f"{model}: {error}; send fewer rows at a time, or ask /v2 for binary outputs",
        ) from None
    except BusyError as error:
        raise Problem(
            429, "decoding-busy", f"{model}: {error}", headers={"retry-after": "1"}
        ) from None


def _answer_memory(answer: Answer) -> int:
    """The most bytes that an answer takes as arrays, and what its JSON takes before."""
    size = answer.headers.get("inference-header-content-length")
    split = length_of(size) if size is not None else None
    written = answer.body if split is None else answer.body[:split]
    texts = 32 if b'"BYTES"' in written else 2
    return json_memory(written) + texts * (len(answer.body) - len(written))
