"""What a caller's request carries on to a model's server, so that routing behind us may look at it.

A rule of the mesh goes by a header or a query parameter of the request that reaches it. The proxy
writes that request itself for predictions, jobs, ensembles and pipelines, and so takes the
caller's headers and query along. Where a cache stands before the model, what may choose the
answer is part of its key. All pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_plus

import orjson

from kit.http.problem import Problem
from proxy.http import headers

Pairs = tuple[tuple[bytes, bytes], ...]

# About the body and the answer between the caller and us, where the proxy writes its own.
_OWN_MESSAGE = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"accept-ranges",
        b"cache-control",
        b"content-disposition",
        b"content-encoding",
        b"content-language",
        b"content-location",
        b"content-md5",
        b"content-range",
        b"content-type",
        b"digest",
        b"idempotency-key",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"inference-header-content-length",
        b"pragma",
        b"range",
    }
)
_DROPPED = headers.DROPPED_WITH_CREDENTIALS | _OWN_MESSAGE
# Sent by clients, browsers, meshes and tracers with every request: they say who asks and how, and
# a key made of them would know no two requests for the same.
_ABOUT_THE_CALLER = frozenset(
    {
        b"accept-language",
        b"b3",
        b"baggage",
        b"date",
        b"dnt",
        b"from",
        b"origin",
        b"priority",
        b"referer",
        b"save-data",
        b"tracestate",
        b"upgrade-insecure-requests",
        b"user-agent",
        b"via",
        b"x-amzn-trace-id",
        b"x-client-trace-id",
        b"x-cloud-trace-context",
        b"x-correlation-id",
        b"x-ot-span-context",
        b"x-requested-with",
        b"x-request-start",
    }
)
_ABOUT_THE_CALLER_PREFIXES = (b"sec-", b"x-b3-", b"x-envoy-", b"x-datadog-")
# The parameters of the proxy's own routes.
_OWN_PARAMETERS = frozenset({"access_token", "callback", "priority", "seconds"})
SHORT = 256
"""Bytes of a name or a query of which it is remembered what becomes of it."""
LARGEST_JOB_HEADERS = 8192
"""Bytes of headers and query that a job keeps."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Headers (lower-case names) and the query, as they go on."""

    headers: Pairs = ()
    query: bytes = b""

    def lines(self) -> bytes:
        """The headers as lines of a request's head."""
        return b"".join(b"%b: %b\r\n" % pair for pair in self.headers)

    def target(self, path: bytes) -> bytes:
        """A path with the query behind it."""
        return path + b"?" + self.query if self.query else path

    def dump(self) -> bytes:
        """As a job keeps it. Problem 431 where it is more than a job may keep."""
        written = orjson.dumps(
            [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers]
        )
        if len(written) + len(self.query) > LARGEST_JOB_HEADERS:
            raise Problem(
                431,
                "headers-too-large",
                f"a job keeps at most {LARGEST_JOB_HEADERS} bytes of headers and query, and this "
                f"request has {len(written) + len(self.query)}; send fewer headers",
            )
        return written


NOTHING = Carried()


def carried(request_headers: Sequence[tuple[bytes, bytes]], query: bytes) -> Carried:
    """What goes on of a request's headers and query."""
    return Carried(tuple(headers.passable(request_headers, _DROPPED)), _passable_query(query))


def load(written: bytes, query: bytes) -> Carried:
    """What ``Carried.dump`` wrote, and the job's query."""
    pairs = orjson.loads(written) if written else []
    kept = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)
    return Carried(kept, _passable_query(query))


def choosing(
    request_headers: Iterable[tuple[bytes, bytes]], query: bytes, vary: tuple[bytes, ...] | None
) -> tuple[Pairs, bytes]:
    """What of a request may choose the answer, as a cache's key has it.

    ``vary`` names the headers; None stands for all but those that every client sends. The order
    of names does not count, that of one name's values does.
    """
    if vary is not None:
        chosen = [pair for pair in request_headers if pair[0] in vary]
    else:
        chosen = [pair for pair in request_headers if _may_choose(pair[0])]
    if len(chosen) > 1:
        chosen.sort(key=_name)
    return tuple(chosen), _passable_query(query)


def key_of_choice(choice: tuple[Pairs, bytes]) -> bytes:
    """``choosing`` as one part of a key: no two choices are written alike."""
    pairs, query = choice
    if not pairs and not query:
        return b""
    texts = [part.decode("latin-1") for pair in pairs for part in pair]
    return orjson.dumps([query.decode("latin-1"), *texts])


def _name(pair: tuple[bytes, bytes]) -> bytes:
    return pair[0]


def _may_choose(name: bytes) -> bool:
    return _may_choose_kept(name) if len(name) <= SHORT else _may_choose_kept.__wrapped__(name)


@lru_cache(maxsize=1024)
def _may_choose_kept(name: bytes) -> bool:
    return not (
        name in _DROPPED
        or name.startswith(headers.FORWARDED)
        or name in _ABOUT_THE_CALLER
        or name.startswith(_ABOUT_THE_CALLER_PREFIXES)
        or b"_" in name
    )


def _passable_query(query: bytes) -> bytes:
    """The query without the parameters that are ours, every other byte as it came."""
    kept = _passable_query_kept
    return kept(query) if len(query) <= SHORT else kept.__wrapped__(query)


@lru_cache(maxsize=256)
def _passable_query_kept(query: bytes) -> bytes:
    if not query:
        return query
    parts = query.split(b"&")
    kept = [
        part
        for part in parts
        if unquote_plus(part.partition(b"=")[0].decode("latin-1")) not in _OWN_PARAMETERS
    ]
    return b"&".join(kept)
