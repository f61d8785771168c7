"""PUTs by our own hand: signed as botocore signs, on connections that are kept or dropped."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials

from unzip.s3.put_client import GarbledError, PutClient, Signer, is_proxied

AT = datetime(2026, 11, 21, 10, 20, 30, tzinfo=UTC)
_OK = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n'


@pytest.mark.parametrize("token", [None, "a-token"])
@pytest.mark.parametrize("key", ["a/b.txt", "한국 어/+ ~&=%.txt", "'(*)!"])
def test_signs_as_botocore_does(key: str, token: str | None) -> None:
    who = Credentials("access", "secret", token)
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "if-none-match": "*",
        "x-amz-checksum-crc32": "AAAAAA==",
        "x-amz-meta-slipway-source": "e",
    }
    signer = Signer("s3.example:9000", "eu-west-1", who.get_frozen_credentials)
    from urllib.parse import quote

    path = quote(f"/bucket/{key}", safe="/-_.~")
    ours = signer.sign("PUT", path, headers, AT.timestamp())
    request = AWSRequest("PUT", f"http://s3.example:9000{path}", headers)
    request.headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
    request.context["client_config"] = mock.Mock(s3={"payload_signing_enabled": False})
    with mock.patch("botocore.auth.get_current_datetime", return_value=AT.replace(tzinfo=None)):
        botocore.auth.S3SigV4Auth(who, "s3", "eu-west-1").add_auth(request)
    assert ours["authorization"] == request.headers["Authorization"]


@contextmanager
def _server(*scripts: list[bytes | None]) -> Iterator[tuple[PutClient, list[bytes]]]:
    """Each connection follows a script: an answer per request; None hangs up without one."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def request(connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
        return body

    def serve() -> None:
        for script in scripts:
            connection, _ = listener.accept()
            with connection:
                for answer in script:
                    heard.append(request(connection))
                    if answer is not None:
                        connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    who = ReadOnlyCredentials("access", "secret", None)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield PutClient(url, "eu-west-1", lambda: who, timeout_seconds=5, connections=4), heard
    thread.join(5)
    listener.close()


def test_a_connection_is_used_again() -> None:
    with _server([_OK, _OK, _OK]) as (wire, heard):
        bodies = [b"", b"small", b"x" * (3 << 20)]
        for body in bodies:
            answer = wire.put("/b/k", {"content-type": "text/plain"}, body)
            assert (answer.status, answer.headers["etag"]) == (200, '"e"')
        assert heard == bodies


def test_a_connection_that_the_server_closes_is_not() -> None:
    closing = b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
    with _server([closing], [_OK]) as (wire, _):
        answer = wire.put("/b/k", {}, b"1")
        assert (answer.status, answer.body) == (503, b"no")
        assert wire.put("/b/k", {}, b"1").status == 200


def test_chunked_errors_are_read_whole() -> None:
    chunked = (
        b"HTTP/1.1 412 Precondition Failed\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"6\r\n<Code>\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    with _server([chunked, _OK]) as (wire, _):
        assert wire.put("/b/k", {}, b"1").body == b"<Code>abc"
        assert wire.put("/b/k", {}, b"1").status == 200


@pytest.mark.parametrize("answer", [None, _OK[:20], b"no HTTP at all\r\n\r\n"])
def test_what_is_no_answer_is_an_error_and_the_connection_is_gone(answer: bytes | None) -> None:
    with _server([answer], [_OK]) as (wire, _):
        with pytest.raises(GarbledError):
            wire.put("/b/k", {}, b"1")
        assert wire.put("/b/k", {}, b"1").status == 200


def test_a_proxy_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "s3.local")
    assert is_proxied("http://s3.example")
    assert not is_proxied("http://s3.local")
    assert not is_proxied("https://s3.example")
