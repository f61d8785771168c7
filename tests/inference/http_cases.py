"""Shapes of HTTP/1.1 requests that strangers' clients, proxies and scanners send.

Rebuilt from what RFC 9110 and 9112 discuss and from what the suites of h11, llhttp, Node.js and
the smuggling papers try. Each has the statuses of all answers on its connection, in order, and
the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.5,2]}]}'
PATH = b"/v2/models/affine/infer"
HALF = len(BODY) // 2


@dataclass(frozen=True)
class Case:
    """What is sent, what comes back and why that is right."""

    name: str
    sent: bytes
    statuses: list[int]
    why: str


def head(
    *lines: bytes,
    method: bytes = b"POST",
    target: bytes = PATH,
    version: bytes = b"HTTP/1.1",
    host: bytes | None = b"Host: x",
) -> bytes:
    """A request's head, its end included."""
    start = b"%b %b %b" % (method, target, version)
    return b"\r\n".join((start, *(() if host is None else (host,)), *lines)) + b"\r\n\r\n"


LENGTH = b"Content-Length: %d" % len(BODY)
PLAIN = head(LENGTH) + BODY
CHUNKED = b"Transfer-Encoding: chunked"
LIVE = head(method=b"GET", target=b"/v2/health/live")


def chunks(first: bytes = b"%x" % HALF, last: bytes = b"0\r\n\r\n") -> bytes:
    """The body in two chunks."""
    rest = BODY[HALF:]
    return b"%b\r\n%b\r\n%x\r\n%b\r\n%b" % (first, BODY[:HALF], len(rest), rest, last)


FRAMING = [
    Case("Content-Length", PLAIN, [200], "plain"),
    Case("chunked", head(CHUNKED) + chunks(), [200], "plain"),
    Case("chunked, name and value in another case", head(b"TRANSFER-ENCODING: Chunked") + chunks(),
         [200], "field names and codings have no case"),
    Case("chunk extensions", head(CHUNKED) + chunks(b'%x;a=b;c="d"' % HALF), [200],
         "extensions that are not known are ignored (9112, 7.1.1)"),
    Case("chunk size with zeros before it", head(CHUNKED) + chunks(b"000%x" % HALF), [200],
         "hexadecimal digits (9112, 7.1)"),
    Case("chunk size 0x…", head(CHUNKED) + chunks(b"0x%x" % HALF), [400], "no hexadecimal number"),
    Case("negative chunk size", head(CHUNKED) + chunks(b"-%x" % HALF), [400], "no number"),
    Case("chunk size of 20 digits", head(CHUNKED) + chunks(b"f" * 20), [400], "overflows"),
    Case("chunk longer than its size", head(CHUNKED) + chunks(b"%x" % (HALF - 1)), [400],
         "data without a line end (9112, 7.1)"),
    Case("chunk lines that end in LF", head(CHUNKED) + chunks().replace(b"\r\n", b"\n"), [400],
         "another reader may frame it otherwise"),
    Case("no last chunk before the end", head(CHUNKED) + chunks(last=b""), [],
         "incomplete: nothing is run (9112, 8)"),
    Case("body shorter than its length", head(LENGTH) + BODY[:-1], [], "incomplete"),
    Case("trailers", head(CHUNKED, b"Trailer: Host") + chunks(last=b"0\r\nHost: y\r\nA: b\r\n\r\n")
         + LIVE, [200, 200], "dropped (9110, 6.5.1)"),
    Case("Content-Length twice, the same", head(LENGTH, LENGTH) + BODY, [400],
         "refused rather than guessed (9112, 6.3)"),
    Case("Content-Length twice, different", head(LENGTH, b"Content-Length: 1") + BODY, [400],
         "cannot be framed (9112, 6.3)"),
    Case("Content-Length as a list", head(LENGTH + b", %d" % len(BODY)) + BODY, [400],
         "refused rather than guessed"),
    Case("Content-Length: +72", head(b"Content-Length: +%d" % len(BODY)) + BODY, [400],
         "no digits"),
    Case("Content-Length: -1", head(b"Content-Length: -1") + BODY, [400], "no digits"),
    Case("Content-Length of 25 digits", head(b"Content-Length: " + b"9" * 25) + BODY, [400],
         "overflows"),
    Case("Content-Length and chunked", head(LENGTH, CHUNKED) + chunks(), [400],
         "request smuggling (9112, 6.1)"),
    Case("chunked and Content-Length", head(CHUNKED, LENGTH) + chunks(), [400],
         "request smuggling"),
    Case("Transfer-Encoding: gzip, chunked", head(b"Transfer-Encoding: gzip, chunked") + chunks(),
         [400], "a coding that is not undone here (9112, 6.1)"),
    Case("Transfer-Encoding: gzip", head(b"Transfer-Encoding: gzip") + BODY, [400],
         "a coding that is not undone here, and no length"),
    Case("Transfer-Encoding: chunked, identity",
         head(b"Transfer-Encoding: chunked, identity") + chunks(), [400],
         "chunked is not the last (9112, 6.3)"),
    Case("Transfer-Encoding: xchunked", head(b"Transfer-Encoding: xchunked") + chunks(), [400],
         "an unknown coding (9112, 6.1)"),
    Case("chunked twice", head(CHUNKED, CHUNKED) + chunks(), [400], "no sender may (9112, 6.1)"),
    Case("chunked after a vertical tab", head(b"Transfer-Encoding: \x0bchunked") + chunks(), [400],
         "request smuggling"),
    Case("chunked in HTTP/1.0", head(CHUNKED, version=b"HTTP/1.0") + chunks() + LIVE, [200],
         "processed, then closed (9112, 6.1)"),
    Case("a body with GET", head(b"Content-Length: 5", method=b"GET", target=b"/v2") + b"hello"
         + LIVE, [200, 200], "read and ignored (9110, 9.3.1)"),
    Case("neither length nor chunked", head() , [400], "an empty body, which is no JSON"),
]  # fmt: skip

CONNECTION = [
    Case("three requests at once", PLAIN + LIVE + PLAIN, [200, 200, 200], "in order (9112, 9.3.2)"),
    Case("what is no HTTP after a request", PLAIN + b"\x00\x01\r\n\r\n", [200, 400],
         "the request before is answered first"),
    Case("an error, then a request", head(LENGTH, target=b"/nothing") + BODY + LIVE, [404, 200],
         "its body is read past"),
    Case("Connection: close, then a request", head(LENGTH, b"Connection: close") + BODY + LIVE,
         [200], "nothing after it is read (9112, 9.6)"),
    Case("HTTP/1.0", head(LENGTH, version=b"HTTP/1.0", host=None) + BODY + LIVE, [200],
         "answered, closed (9112, 9.3)"),
    Case("empty lines before a request", b"\r\n\r\n" + PLAIN, [200], "ignored (9112, 2.2)"),
    Case("Upgrade: h2c", head(LENGTH, b"Connection: Upgrade, HTTP2-Settings",
         b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA", b"Upgrade: h2c") + BODY
         + LIVE, [200, 200], "ignored, its body read (9110, 7.8)"),
    Case("Upgrade: websocket", head(LENGTH, b"Connection: upgrade", b"Upgrade: websocket") + BODY,
         [200], "ignored"),
    Case("a WebSocket handshake", head(b"Connection: upgrade", b"Upgrade: websocket",
         b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
         method=b"GET", target=b"/v2"), [200], "there is no WebSocket here: ignored"),
    Case("Expect: 100-continue", head(LENGTH, b"Expect: 100-continue"), [100],
         "go on (9110, 10.1.1)"),
    Case("Expect, its body sent at once", head(LENGTH, b"Expect: 100-Continue") + BODY, [200],
         "100 may be left out, the body is there"),
    Case("Expect, a body that is too large", head(b"Content-Length: 999999999",
         b"Expect: 100-continue"), [413], "refused before it is sent"),
    Case("Expect in HTTP/1.0", head(LENGTH, b"Expect: 100-continue", version=b"HTTP/1.0") + BODY,
         [200], "ignored (9110, 10.1.1)"),
    Case("Expect of something else", head(LENGTH, b"Expect: payment") + BODY, [200],
         "may be disregarded (9110, 10.1.1)"),
]  # fmt: skip

HEADS = [
    Case("target in absolute form", head(LENGTH, target=b"http://x" + PATH) + BODY, [200],
         "servers must take it (9112, 3.2.2)"),
    Case("target in absolute form, another Host", head(LENGTH, target=b"http://y:81" + PATH) + BODY,
         [200], "the target decides (9112, 3.2.2)"),
    Case("target in absolute form, without a path", head(method=b"GET", target=b"http://x") + LIVE,
         [200, 200], "the same as / (9112, 3.2.2; 3986, 6.2.3)"),
    Case("target in absolute form, a query and no path",
         head(method=b"GET", target=b"http://x?a=b") + LIVE, [200, 200], "the same as /?a=b"),
    Case("target in absolute form, a fragment and no path",
         head(method=b"GET", target=b"http://x#a") + LIVE, [400], "no target has one (9112, 3.2)"),
    Case("target in absolute form, without a host", head(method=b"GET", target=b"http://") + LIVE,
         [400], "no URI (9110, 4.2.1)"),
    Case("OPTIONS of an absolute form without a path", head(method=b"OPTIONS", target=b"http://x")
         + LIVE, [405, 200], "/ is there, for GET"),
    Case("target in authority form", head(method=b"GET", target=b"x:443") + LIVE, [400],
         "only for CONNECT (9112, 3.2.3)"),
    Case("target in asterisk form", head(method=b"GET", target=b"*") + LIVE, [404, 200],
         "only for OPTIONS (9112, 3.2.4): nothing is there"),
    Case("CONNECT of a path", head(method=b"CONNECT", target=PATH), [501], "no tunnel"),
    Case("CONNECT of an absolute form", head(method=b"CONNECT", target=b"http://x"), [501],
         "no tunnel"),
    Case("Host with a blank", head(LENGTH, host=b"Host: a b") + BODY + LIVE, [400, 200],
         "no host (9112, 3.2)"),
    Case("Host with a user", head(LENGTH, host=b"Host: u@x") + BODY + LIVE, [400, 200],
         "no host (9112, 3.2)"),
    Case("Host with a path", head(LENGTH, host=b"Host: x/y") + BODY + LIVE, [400, 200],
         "no host (9112, 3.2)"),
    Case("Host with a port", head(LENGTH, host=b"Host: [::1]:8080") + BODY + LIVE, [200, 200],
         "plain"),
    Case("Host with a blank, for metadata", head(method=b"GET", target=b"/v2", host=b"Host: a b")
         + LIVE, [400, 200], "the same rule for every path"),
    Case("Content-Type twice", head(LENGTH, b"Content-Type: text/csv", b"Content-Type: a/b") + BODY
         + LIVE, [400, 200], "two servers could take different ones (9110, 5.3)"),
    Case("Authorization twice", head(LENGTH, b"Authorization: Bearer a", b"Authorization: Bearer b")
         + BODY + LIVE, [400, 200], "two servers could take different ones (9110, 5.3)"),
    Case("target with a query", head(LENGTH, target=PATH + b"?a=b") + BODY, [200], "ignored"),
    Case("target with a fragment", head(LENGTH, target=PATH + b"#a") + BODY, [200],
         "the fragment is left out, as nginx does"),
    Case("escaped letter in the target", head(LENGTH, target=b"/v2/models/%61ffine/infer") + BODY,
         [200], "the same path (3986, 6.2.2)"),
    Case("escaped slash in the target", head(LENGTH, target=b"/v2/models%2Faffine/infer") + BODY,
         [404], "another path"),
    Case("two slashes", head(LENGTH, target=b"/" + PATH) + BODY, [404], "another path"),
    Case("slash at the end", head(LENGTH, target=PATH + b"/") + BODY, [404], "another path"),
    Case("OPTIONS *", head(method=b"OPTIONS", target=b"*"), [404], "nothing is there"),
    Case("CONNECT", head(method=b"CONNECT", target=b"x:443"), [501], "no tunnel"),
    Case("lower-case method", head(LENGTH, method=b"post") + BODY, [400],
         "methods have a case (9110, 9.1): no such method"),
    Case("unknown method", head(LENGTH, method=b"BREWING") + BODY, [400], "no such method"),
    Case("HEAD of infer", head(LENGTH, method=b"HEAD") + BODY, [405], "HEAD never runs a model"),
    Case("PUT of infer", head(LENGTH, method=b"PUT") + BODY + LIVE, [405, 200], "not allowed"),
    Case("no Host", head(LENGTH, host=None) + BODY, [400], "must be refused (9112, 3.2)"),
    Case("Host twice", head(LENGTH, b"Host: y") + BODY, [400], "must be refused (9112, 3.2)"),
    Case("empty Host", head(LENGTH, host=b"Host:") + BODY, [200], "allowed (9112, 3.2)"),
    Case("HTTP/1.2", head(LENGTH, version=b"HTTP/1.2") + BODY, [400], "not spoken here"),
    Case("HTTP/2.0 without agreement", head(LENGTH, version=b"HTTP/2.0") + BODY, [505],
         "not spoken here"),
    Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400], "not spoken here"),
    Case("HTTP/0.9", b"GET /v2\r\n\r\n", [505], "not spoken here"),
    Case("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, [400],
         "this port speaks plain HTTP"),
    Case("lines that end in LF", PLAIN.replace(b"\r\n", b"\n"), [400],
         "another reader may frame it otherwise"),
    Case("folded header", head(LENGTH, b"X-A: b", b" c") + BODY, [400], "obsolete (9112, 5.2)"),
    Case("space before the colon", head(b"Content-Length : %d" % len(BODY)) + BODY, [400],
         "must be refused (9112, 5.1)"),
    Case("header without a name", head(LENGTH, b": b") + BODY, [400], "no field name"),
    Case("header without a colon", head(LENGTH, b"X-A") + BODY, [400], "no field"),
    Case("NUL in a value", head(LENGTH, b"X-A: \0") + BODY, [400], "must be refused (9110, 5.5)"),
    Case("CR in a value", head(LENGTH, b"X-A: b\rc") + BODY, [400], "must be refused (9110, 5.5)"),
    Case("other bytes in a value", head(LENGTH, b"X-A: \xff\xe9") + BODY, [200],
         "opaque (9110, 5.5)"),
    Case("a value of 30,000 bytes", head(LENGTH, b"X-A: " + b"a" * 30_000) + BODY, [200],
         "below the limit of a head"),
    Case("a value of 600,000 bytes", head(LENGTH, b"X-A: " + b"a" * 600_000) + BODY, [431],
         "past the limit of a head"),
    Case("a path of 20,000 bytes", head(LENGTH, target=b"/" + b"a" * 20_000) + BODY, [404],
         "no such path"),
    Case("1,000 headers", head(LENGTH, *(b"X-%d: a" % n for n in range(1000))) + BODY, [431],
         "each takes memory, however short: at most 256"),
    Case("X-HTTP-Method-Override", head(LENGTH, b"X-HTTP-Method-Override: GET") + BODY, [200],
         "ignored"),
]  # fmt: skip

ENCODING = [
    Case("Content-Encoding: br", head(LENGTH, b"Content-Encoding: br") + BODY, [415],
         "not undone here (9110, 8.4)"),
    Case("Content-Encoding: identity", head(LENGTH, b"Content-Encoding: Identity") + BODY, [200],
         "nothing to undo"),
    Case("Content-Encoding: GZIP of what is none", head(LENGTH, b"Content-Encoding: GZIP") + BODY,
         [400], "known in any case, but no gzip"),
    Case("Content-Type of something else", head(LENGTH, b"Content-Type: text/plain") + BODY, [200],
         "the protocol's bodies are JSON whatever their type says, as curl's are"),
    Case("Accept of something else", head(LENGTH, b"Accept: image/png") + BODY, [200],
         "may be disregarded (9110, 12.5.1)"),
    Case("Range", head(LENGTH, b"Range: bytes=0-1") + BODY, [200], "only for GET (9110, 14.2)"),
    Case("JSON longer than the body", head(LENGTH, b"Inference-Header-Content-Length: 999") + BODY,
         [400], "named"),
    Case("JSON length with a sign", head(LENGTH, b"Inference-Header-Content-Length: +70") + BODY,
         [400], "no digits"),
    Case("JSON length that is empty", head(LENGTH, b"Inference-Header-Content-Length:") + BODY,
         [400], "no digits"),
    Case("JSON length that is no number", head(LENGTH, b"Inference-Header-Content-Length: x")
         + BODY, [400], "named"),
]  # fmt: skip

CORPUS = {"framing": FRAMING, "connection": CONNECTION, "heads": HEADS, "encoding": ENCODING}
