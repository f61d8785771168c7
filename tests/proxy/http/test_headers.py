"""Headers: nothing of one hop reaches the next, nothing that two servers read in two ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http import headers
from proxy.http.headers import DROPPED, BadHeadersError

HOST = (b"host", b"proxy")


@pytest.mark.parametrize(
    "sent",
    [
        [HOST, HOST],
        [(b"host", b"a b")],
        [(b"host", b"a/b")],
        [(b"host", b"a@b")],
        [(b"host", b"a,b")],
        [],
        [HOST, (b"content-length", b"5"), (b"content-length", b"5")],
        [HOST, (b"content-length", b"5, 5")],
        [HOST, (b"content-length", b"+5")],
        [HOST, (b"content-length", b"0x5")],
        [HOST, (b"content-length", b"")],
        [HOST, (b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [HOST, (b"transfer-encoding", b"gzip, chunked")],
        [HOST, (b"transfer-encoding", b"chunked, identity")],
        [HOST, (b"transfer-encoding", b"xchunked")],
        [HOST, (b"transfer-encoding", b"\x0bchunked")],
        [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_smuggling_is_refused(sent: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadHeadersError):
        headers.check(sent)


def test_http_1_0_needs_no_host_and_knows_no_chunks() -> None:
    headers.check([], http_version="1.0")
    with pytest.raises(BadHeadersError):
        headers.check([HOST, (b"transfer-encoding", b"chunked")], http_version="1.0")


@pytest.mark.parametrize("host", [b"a", b"a:80", b"[::1]:80", b"a.b-c_d", b"127.0.0.1:8080", b""])
def test_hosts_as_they_should_be(host: bytes) -> None:
    headers.check([(b"host", host)])


def test_hop_by_hop_headers_end_here_with_those_connection_names() -> None:
    sent = [
        (b"connection", b"close, X-Mine , authorization"),
        (b"x-mine", b"1"),
        (b"authorization", b"secret"),
        (b"te", b"trailers"),
        (b"keep-alive", b"timeout=5"),
        (b"x-kept", b"1"),
    ]
    assert headers.passable(sent, DROPPED) == [(b"x-kept", b"1")]


@pytest.mark.parametrize(
    "name", [b"x-http-method-override", b"x-original-url", b"x-rewrite-url", b"x-envoy-retry-on",
             b"x-envoy-upstream-rq-timeout-ms", b"x-envoy-max-retries"],
)  # fmt: skip
def test_nobody_changes_by_a_header_what_was_decided(name: bytes) -> None:
    """Method, path and retries of the next hop are what the proxy looked at and set."""
    assert headers.passable([(name, b"DELETE"), (b"a", b"b")], DROPPED) == [(b"a", b"b")]


@pytest.mark.parametrize(
    "name", [b"x-forwarded-port", b"x-forwarded-scheme", b"x-forwarded-user", b"x-forwarded-uri",
             b"x-forwarded-client-cert", b"x-forwarded-anything"],
)  # fmt: skip
def test_nothing_a_caller_claims_to_be_forwarded_passes(name: bytes) -> None:
    """Found: only four of these ended here; servers behind us build addresses of the others."""
    assert headers.passable([(name, b"99"), (b"a", b"b")], DROPPED) == [(b"a", b"b")]


def test_a_length_cannot_be_declared_to_be_of_one_hop() -> None:
    """Found: an answer with `Connection: content-length` went out without its end."""
    sent = [
        (b"connection", b"content-length, x-mine"),
        (b"x-mine", b"1"),
        (b"content-length", b"2"),
    ]
    assert headers.passable(sent, headers.ANSWER_DROPPED) == [(b"content-length", b"2")]


NAMES = st.sampled_from([b"connection", b"x-a", b"x-b", b"te", b"upgrade", b"accept", b"host"])


@given(st.lists(st.tuples(NAMES, st.sampled_from([b"close", b"x-a", b"x-a, x-b", b"1"]))))
def test_nothing_dropped_ever_passes(sent: list[tuple[bytes, bytes]]) -> None:
    passed = headers.passable(sent, DROPPED)
    named = headers.listed_in_connection(sent)
    assert all(name not in DROPPED and name not in named for name, _ in passed)
    assert [pair for pair in sent if pair in passed] == passed  # order and repeats are kept


@pytest.mark.parametrize(
    ("forwarded", "hops", "client"),
    [
        (None, 1, "10.0.0.9"),
        (b"1.2.3.4", 1, "1.2.3.4"),
        (b"6.6.6.6, 1.2.3.4", 1, "1.2.3.4"),
        (b"6.6.6.6, 1.2.3.4, 10.0.0.1", 2, "1.2.3.4"),
        (b"1.2.3.4", 0, "10.0.0.9"),
    ],
)
def test_a_caller_cannot_invent_its_address(
    forwarded: bytes | None, hops: int, client: str
) -> None:
    found, chain = headers.client_address("10.0.0.9", forwarded, hops)
    assert found == client
    assert "6.6.6.6" not in chain
    assert chain[-1] == "10.0.0.9"
