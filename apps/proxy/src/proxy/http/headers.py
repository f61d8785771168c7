"""Which headers pass, which end here, and which requests are refused for theirs. All pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from kit.http.request_headers import RepeatedHeaderError, check_sent_once, is_host

Headers = list[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1, and what is only about the connection to us.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Written anew for the next hop; what a caller claims about them is not believed.
REPLACED = frozenset(
    {
        b"host",
        b"content-length",
        b"expect",
        b"traceparent",
        b"forwarded",
        b"x-real-ip",
        b"x-request-id",
        b"x-request-timeout",
        b"x-slipway-shadow",
        b"x-slipway-arm",
        b"x-slipway-caller",
        b"x-slipway-probe",
        # Some servers route by these instead of by the method and the path that were checked.
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
        # Orders to the next Envoy, which takes them from whoever is inside the mesh, as we are.
        b"x-envoy-decorator-operation",
        b"x-envoy-expected-rq-timeout-ms",
        b"x-envoy-force-trace",
        b"x-envoy-hedge-on-per-try-timeout",
        b"x-envoy-internal",
        b"x-envoy-max-retries",
        b"x-envoy-original-path",
        b"x-envoy-retriable-header-names",
        b"x-envoy-retriable-status-codes",
        b"x-envoy-retry-grpc-on",
        b"x-envoy-retry-on",
        b"x-envoy-upstream-alt-stat-name",
        b"x-envoy-upstream-rq-per-try-timeout-ms",
        b"x-envoy-upstream-rq-timeout-alt-response",
        b"x-envoy-upstream-rq-timeout-ms",
    }
)
FORWARDED = b"x-forwarded-"
"""How the names begin that say who asked: written anew, whatever comes after it."""
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"cookie"})
DROPPED = HOP_BY_HOP | REPLACED
DROPPED_WITH_CREDENTIALS = DROPPED | CREDENTIALS
ANSWER_DROPPED = HOP_BY_HOP | {b"x-request-id", b"x-slipway-overhead-ms"}


class BadHeadersError(ValueError):
    """Headers that two servers could read in two ways."""


def check(headers: Collection[tuple[bytes, bytes]], *, http_version: str = "1.1") -> None:
    """Refuse what request smuggling is made of (RFC 9112 sections 3.2 and 6.3).

    More than one Host, none in HTTP/1.1, a Host with blanks or a path, several or malformed
    Content-Lengths, Content-Length beside Transfer-Encoding, any Transfer-Encoding but
    ``chunked``; and more than one of what can only be said once (kit's ``SENT_ONCE``).
    """
    hosts = lengths = codings = 0
    try:
        check_sent_once(headers)
    except RepeatedHeaderError as error:
        raise BadHeadersError(str(error)) from None
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if hosts > 1:
                raise BadHeadersError("the request has more than one Host header")
            if not is_host(value):
                raise BadHeadersError("the Host header is not a host name with an optional port")
        elif name == b"content-length":
            lengths += 1
            if lengths > 1 or not value.isdigit():
                raise BadHeadersError("the request needs one Content-Length, a number")
        elif name == b"transfer-encoding":
            codings += 1
            if codings > 1 or value.strip(b" \t").lower() != b"chunked":
                raise BadHeadersError("the only Transfer-Encoding accepted is `chunked`")
            if http_version == "1.0":
                raise BadHeadersError("HTTP/1.0 knows no Transfer-Encoding")
    if lengths and codings:
        raise BadHeadersError("the request has both Content-Length and Transfer-Encoding")
    if hosts == 0 and http_version == "1.1":
        raise BadHeadersError("the request has no Host header")


def check_once(fields: Mapping[bytes, bytes], *, http_version: str = "1.1") -> None:
    """``check`` for headers of which no name repeats."""
    host = fields.get(b"host")
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if host is None or coding is not None or not is_host(host):
        check(fields.items(), http_version=http_version)
    elif length is not None and not length.isdigit():
        raise BadHeadersError("the request needs one Content-Length, a number")


def get(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first header of that name (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def listed_in_connection(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The names a Connection header declares to be about this hop only.

    What frames the message cannot be declared away.
    """
    names: set[bytes] = set()
    for key, value in headers:
        if key == b"connection":
            names.update(token.strip().lower() for token in value.split(b","))
    return frozenset(names - {b"close", b"keep-alive", b"upgrade", b"content-length", b""})


_PLAIN_CONNECTIONS = frozenset({b"close", b"keep-alive", b"Keep-Alive", b"Close"})


def passable(
    headers: Sequence[tuple[bytes, bytes]], dropped: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    """The headers without ``dropped`` and without what Connection declares."""
    for key, value in headers:
        if key == b"connection" and value not in _PLAIN_CONNECTIONS:
            dropped = dropped | listed_in_connection(headers)
            break
    # `x_request_id` is `x-request-id` to many frameworks behind us; nginx drops such names too.
    # Who asked, by which name and port, is what the proxy itself writes under FORWARDED.
    return [
        pair
        for pair in headers
        if pair[0] not in dropped and b"_" not in pair[0] and not pair[0].startswith(FORWARDED)
    ]


def length_of(value: str) -> int | None:
    """A header that holds a length; None where it is no number of at most 15 digits.

    Python refuses to read numbers of some thousand digits, by a ValueError.
    """
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 15 else None


def client_address(
    peer: str, forwarded_for: bytes | None, trusted_hops: int
) -> tuple[str, list[str]]:
    """Who asked, and the chain for the next hop.

    ``trusted_hops`` proxies in front of us appended to X-Forwarded-For; the entry that the
    outermost of them wrote is the client, everything left of it the client's own invention.
    """
    if forwarded_for is None:
        return peer, [peer]
    entries = [part.strip() for part in forwarded_for.decode("latin-1").split(",")]
    chain = [entry for entry in entries if entry]
    trusted = chain[-trusted_hops:] if trusted_hops else []
    return (trusted[0] if trusted else peer), [*trusted, peer]
