"""The prediction cache on the pass-through path: infer requests of the protocol itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from kit import json_names
from kit.http.problem import Problem
from kit.telemetry import logs
from proxy.config.backends import CachePolicy
from proxy.http import headers as headers_module
from proxy.http.body import read_body
from proxy.http.forward import watched
from proxy.http.propagation import Pairs, choosing, key_of_choice
from proxy.http.request import Request
from proxy.models.backend import Answer, Asking
from proxy.models.http import HttpModel
from proxy.models.metadata import Contract
from proxy.predictions.cache import Made, PredictionCache, Sent, key_of
from proxy.server.protocol import lines_of

log = logs.get("proxy.v2_cache")

JSON_LENGTH = "inference-header-content-length"
LONGEST_ID = 1024
"""Characters of a request's id, as at the model's server."""
MOST_JSON_BYTES = 256 * 1024
"""JSON that is read to know a request again, in up to 0.1 s in which nothing else runs here."""
KEPT = ("content-type", JSON_LENGTH, "retry-after")


class BadEntryError(ValueError):
    """An answer whose parts do not fit: kept so, or given so by the model's server."""


@dataclass(frozen=True, slots=True)
class Question:
    """An infer request without what is only about the one who asks."""

    identity: str | None
    canonical: bytes


def question(body: bytes, json_length: int | None) -> Question:
    """Take the id out and put the keys in order. Problem 400 for a body that is no request."""
    try:
        written = body if json_length is None else body[:json_length]
        document = orjson.loads(written)
        if not isinstance(document, dict):
            raise ValueError("it must be an object")
        if (name := json_names.repeated_name(written, document)) is not None:
            raise Problem(400, "bad-input", f"the infer request: {json_names.message(name)}")
        identity = document.pop("id", None)
        if identity is not None and (type(identity) is not str or len(identity) > LONGEST_ID):
            raise ValueError(f"id must be text of at most {LONGEST_ID} characters")
        ordered = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except (ValueError, orjson.JSONEncodeError) as error:  # the latter: nested too deep
        raise Problem(400, "bad-input", f"the infer request is not right: {error}") from None
    tail = b"" if json_length is None else body[json_length:]
    return Question(identity, ordered + b"\0" + tail)


def keep(answer: Answer) -> bytes:
    """An answer for the cache: a line of JSON about it, then its body without the id."""
    headers, body = _kept_headers(answer), answer.body
    if answer.status == 200:
        body, headers = with_id(body, headers, None)
    return entry(answer.status, headers, body)


def _kept_headers(answer: Answer) -> dict[str, str]:
    return {
        name: value
        for name, value in answer.headers.items()
        if name in KEPT or name.startswith("x-slipway-")
    }


def entry(status: int, headers: dict[str, str], body: bytes) -> bytes:
    """What is kept: a line of JSON, then the body."""
    return orjson.dumps({"status": status, "headers": headers}) + b"\n" + body


def recall(data: bytes, identity: str | None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a kept answer, for a request with this id. BadEntryError."""
    line, _, body = data.partition(b"\n")
    try:
        about: dict[str, Any] = orjson.loads(line)
        status, headers = about["status"], about["headers"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadEntryError(f"its first line is no description: {error!r}") from None
    if identity is not None and status == 200:
        body, headers = with_id(body, headers, identity)
    return status, headers, body


def verbatim_of(
    request: Request, backend: HttpModel, contract: Contract, rest: bytes, body: bytes
) -> tuple[object, ...]:
    """What two requests must have in common to be the same without being read.

    The bytes themselves, not a digest of them: a table compares what it finds, so nobody can
    make two requests pass for one.
    """
    length = request.header(JSON_LENGTH.encode())
    choice = choice_of(request, backend)
    return backend.name, rest, contract.version, contract.digest, request.arm, choice, length, body


def choice_of(request: Request, backend: HttpModel) -> tuple[Pairs, bytes]:
    """The headers and the query that may choose the answer."""
    policy = backend.cache
    vary = None if policy is None else policy.varying
    return choosing(request.headers, request.scope["query_string"], vary)


def size_of_choice(request: Request, backend: HttpModel) -> int:
    """Bytes that `choice_of` takes in a key, its objects included."""
    pairs, query = choice_of(request, backend)
    return len(query) + sum(len(name) + len(value) + 128 for name, value in pairs)


def recall_sent(
    request: Request, cache: PredictionCache, backend: HttpModel, rest: bytes, body: bytes
) -> Sent | None:
    """The answer to the very same request from memory; None where more is needed."""
    contract = backend.known_contract()
    if contract is None or request.header(b"cache-control") or is_coded(request):
        return None
    return cache.recall(verbatim_of(request, backend, contract, rest, body))


def is_coded(request: Request) -> bool:
    """Whether the body is compressed, so that it cannot be read here."""
    return (request.joined(b"content-encoding") or b"identity").lower() != b"identity"


def is_large(request: Request) -> bool:
    """Whether the head says that the request's JSON is larger than what is read here."""
    length = request.header(JSON_LENGTH.encode()) or request.header(b"content-length") or b""
    size = headers_module.length_of(length.decode("latin-1"))
    return size is not None and size > MOST_JSON_BYTES


def with_id(
    body: bytes, headers: dict[str, str], identity: str | None
) -> tuple[bytes, dict[str, str]]:
    """The answer with this id, or without one, its binary part untouched. BadEntryError."""
    length = headers.get(JSON_LENGTH)
    split = len(body) if length is None else headers_module.length_of(length)
    if split is None or split > len(body):
        raise BadEntryError(f"{JSON_LENGTH} is {length[:32] if length else ''!r}")
    try:
        document = orjson.loads(body[:split])
    except orjson.JSONDecodeError as error:
        raise BadEntryError(f"its first {split} bytes are not JSON: {error}") from None
    if not isinstance(document, dict):
        return body, headers
    document.pop("id", None)
    if identity is not None:
        document = {"id": identity, **document}
    written = orjson.dumps(document)
    if length is not None:
        headers = headers | {JSON_LENGTH: str(len(written))}
    return written + body[split:], headers


async def infer(
    request: Request,
    cache: PredictionCache,
    policy: CachePolicy,
    backend: HttpModel,
    asking: Asking,
    *,
    rest: bytes,
    limit: int,
) -> None:
    """Answer an infer request from the cache, or ask the model and keep what it says.

    A request whose JSON is larger than ``MOST_JSON_BYTES`` is passed on unread.
    """
    body = await read_body(request, limit)
    length = request.header(JSON_LENGTH.encode())
    json_length = None if length is None else headers_module.length_of(length.decode("latin-1"))
    if length is not None and json_length is None:
        shown = length[:50].decode("latin-1")
        raise Problem(
            400, "bad-input",
            f"Inference-Header-Content-Length is {shown!r}: it must be an integer of at most "
            "15 digits",
        )  # fmt: skip
    if json_length is not None and json_length > len(body):
        raise Problem(
            400, "bad-input",
            f"Inference-Header-Content-Length is {json_length}, the body has {len(body)} bytes",
        )  # fmt: skip
    if (len(body) if json_length is None else json_length) > MOST_JSON_BYTES:
        cache.count(backend.name, "bypass")
        await _pass_by(request, backend, asking, body, json_length=json_length, rest=rest)
        return
    control = request.joined(b"cache-control") or b""
    contract = await backend.contract(asking)
    # The very same bytes again need not be read to be known: arrays of numbers take long to.
    verbatim = verbatim_of(request, backend, contract, rest, body)
    if not control and (known := cache.recall(verbatim)) is not None:
        cache.count(backend.name, "hit")
        await _send(request, known, "hit")
        return
    asked = question(body, json_length)
    key = key_of(
        b"infer",
        backend.name.encode(),
        rest,
        contract.version.encode(),
        contract.digest.encode(),
        asking.arm,
        key_of_choice(choice_of(request, backend)),
        asked.canonical,
    )

    async def make() -> Made:
        answer = await backend.infer(body, json_length, asking, rest=rest)
        version = answer.headers.get("x-slipway-model-version", contract.version)
        pinned = b"/versions/" in rest
        kept = answer.status == 200 and (pinned or version == contract.version)
        try:
            return Made(keep(answer), keep=kept)
        except BadEntryError as error:
            raise Problem(502, "bad-answer", f"{backend.name}: {error}") from error

    try:
        with watched(request):
            data, result = await cache.answer(
                backend.name, policy, key, make, deadline=asking.deadline, cache_control=control
            )
            try:
                recalled = recall(data, asked.identity)
            except BadEntryError as error:  # kept by an older version of us, or garbled
                log.warning("cache entry not readable", model=backend.name, reason=str(error))
                data, result = await cache.answer(
                    backend.name,
                    policy,
                    key,
                    make,
                    deadline=asking.deadline,
                    cache_control=b"no-cache",
                )
                recalled = recall(data, asked.identity)
    finally:
        request.upstream_seconds += asking.upstream_seconds
    sent = sent_of(key, data, recalled, result)
    if sent.status == 200 and result == "hit":
        cache.remember(verbatim, sent, len(body) + size_of_choice(request, backend))
    await _send(request, sent, result)


def sent_of(
    key: str, source: bytes, answer: tuple[int, dict[str, str], bytes], result: str
) -> Sent:
    """An answer as it goes out, its header lines made."""
    status, headers, body = answer
    passed = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    passed += [(b"x-cache", result.encode()), (b"content-length", b"%d" % len(body))]
    variant = headers.get("x-slipway-variant", "")
    return Sent(key, source, status, variant, passed, lines_of(passed), body)


async def _pass_by(
    request: Request,
    backend: HttpModel,
    asking: Asking,
    body: bytes,
    *,
    json_length: int | None,
    rest: bytes,
) -> None:
    """Ask the model as if there were no cache."""
    try:
        with watched(request):
            answer = await backend.infer(body, json_length, asking, rest=rest)
    finally:
        request.upstream_seconds += asking.upstream_seconds
    parts = (answer.status, _kept_headers(answer), answer.body)
    await _send(request, sent_of("", b"", parts, "bypass"), "bypass")


async def _send(request: Request, sent: Sent, result: str) -> None:
    request.cache = result
    request.variant = sent.variant
    if request.write_complete is not None and request.write_complete(
        sent.status, sent.headers, sent.body
    ):
        return
    await request.send(
        {"type": "http.response.start", "status": sent.status, "headers": sent.headers}
    )
    await request.send({"type": "http.response.body", "body": sent.body})
