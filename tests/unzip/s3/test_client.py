"""The client: conditions, errors, pace."""

from __future__ import annotations

import zlib
from typing import Any

import botocore.exceptions
import obstore.exceptions
import pytest
import urllib3.exceptions

from tests.s3 import S3Server
from tests.unzip.conftest import session
from tests.unzip.faults import faulty
from unzip.s3.capabilities import UnfitStore, check_conditional_writes, copies_rightly
from unzip.s3.client import S3
from unzip.s3.errors import Conflict, Missing, SlowDown, StoreError, Transient, translate
from unzip.s3.types import Absent, Matching


def test_conditional_writes(store: S3) -> None:
    first = store.put("k", b"1", "text/plain", {}, Absent())
    with pytest.raises(Conflict):
        store.put("k", b"2", "text/plain", {}, Absent())
    second = store.put("k", b"2", "text/plain", {}, Matching(first))
    with pytest.raises(Conflict):
        store.put("k", b"3", "text/plain", {}, Matching(first))
    assert store.get("k").body == b"2"
    with pytest.raises(Conflict):
        store.delete("k", first)
    store.delete("k", second)
    with pytest.raises(Missing):
        store.get("k")
    store.delete("k")


def test_reads_are_pinned(store: S3) -> None:
    etag = store.put("k", b"0123456789", "text/plain", {})
    assert bytes(store.read("k", 2, 5, etag)) == b"234"
    store.put("k", b"9876543210", "text/plain", {})
    with pytest.raises(Conflict):
        store.read("k", 2, 5, etag)
    store.delete("k")
    with pytest.raises(Missing):
        store.read("k", 2, 5, etag)


def test_multipart(store: S3) -> None:
    upload = store.create_upload("k", "text/plain", {"slipway-source": "e"})
    parts = [store.upload_part("k", upload, n, bytes([n]) * (5 << 20)) for n in (1, 2)]
    with pytest.raises(Missing):
        store.head("k")
    store.complete_upload("k", upload, parts, Absent())
    head = store.head("k")
    assert (head.size, head.content_type, head.metadata["slipway-source"]) == (
        10 << 20,
        "text/plain",
        "e",
    )
    again = store.create_upload("k", "text/plain", {})
    part = store.upload_part("k", again, 1, b"x")
    with pytest.raises(Conflict):
        store.complete_upload("k", again, [part], Absent())
    store.abort_upload("k", again)
    store.abort_upload("k", again)
    assert list(store.list_uploads("")) == []


def test_s3_refuses_parts_that_make_another_crc(store: S3) -> None:
    upload = store.create_upload("k", "text/plain", {})
    part = store.upload_part("k", upload, 1, b"x")
    with pytest.raises(StoreError):
        store.complete_upload("k", upload, [part], Absent(), crc=zlib.crc32(b"y"))
    with pytest.raises(Missing):
        store.head("k")
    store.complete_upload("k", upload, [part], Absent(), crc=zlib.crc32(b"x"))
    assert store.get("k").body == b"x"


def test_listing_goes_on_behind_a_key(store: S3) -> None:
    for n in range(5):
        store.put(f"p/{n}", b"", "text/plain", {})
    assert [entry.key for entry in store.entries("p/", "p/2")] == ["p/3", "p/4"]


def test_this_server_is_fit(store: S3) -> None:
    check_conditional_writes(store, "s/")
    assert copies_rightly(store, "s/")()
    assert list(store.entries("s/")) == []
    assert list(store.list_uploads("s/")) == []


class TwoWinners:
    """A server that answers every writer of a race with success, as versitygw 1.7 did."""

    def __init__(self, store: S3) -> None:
        self._store = store

    def put(self, key: str, body: bytes, kind: str, metadata: Any, condition: Any) -> str:
        unconditional = None if isinstance(condition, Absent) else condition
        return self._store.put(key, body, kind, metadata, unconditional)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_server_with_several_winners_is_refused(store: S3) -> None:
    unfit: Any = TwoWinners(store)
    with pytest.raises(UnfitStore, match="8 of 8 writers won"):
        check_conditional_writes(unfit, "s/")


class TwoSuccessors(TwoWinners):
    """A server that compares the version and does not lock: all who saw it replace it."""

    def __init__(self, store: S3) -> None:
        super().__init__(store)
        self._first = ""

    def put(self, key: str, body: bytes, kind: str, metadata: Any, condition: Any) -> str:
        same = isinstance(condition, Matching) and condition.etag == self._first
        etag = self._store.put(key, body, kind, metadata, None if same else condition)
        self._first = self._first or etag
        return etag


def test_a_server_that_lets_several_replace_one_version_is_refused(store: S3) -> None:
    """Found: taking over relies on it, and only a version that is not there was tried."""
    unfit: Any = TwoSuccessors(store)
    with pytest.raises(UnfitStore, match="8 of 8 writers won one If-Match race"):
        check_conditional_writes(unfit, "s/")
    assert list(store.entries("s/")) == []


def test_every_repetition_is_counted(s3_server: S3Server, bucket: str) -> None:
    """Found: a request that was repeated nine times counted as one retry."""
    counted: list[str] = []
    with faulty(s3_server.url) as faults:
        faults.rate, faults.kinds = 1.0, ("slow_down",)
        through = S3(
            bucket,
            session=session(),
            endpoint=faults.url,
            attempts=3,
            pause_seconds=0.001,
            on_retry=lambda error: counted.append(error.code),
        )
        with pytest.raises(SlowDown):
            through.put("k", b"1", "text/plain", {})
        assert len(counted) == faults.happened["slow_down"] - 1 == 3
    assert set(counted) == {"SlowDown"}


def _client_error(code: str, status: int) -> Exception:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "PutObject")


def _obstore_error(status: int, code: str) -> Exception:
    return obstore.exceptions.GenericError(
        f"Server returned non-2xx status code: {status} X: <Error><Code>{code}</Code></Error>"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_client_error("SlowDown", 503), SlowDown),
        (_client_error("ServiceUnavailable", 503), Transient),
        (_client_error("InternalError", 500), Transient),
        (_client_error("ExpiredToken", 400), Transient),
        (_client_error("RequestTimeout", 400), Transient),
        (_client_error("PreconditionFailed", 412), Conflict),
        (_client_error("ConditionalRequestConflict", 409), Conflict),
        (_client_error("NoSuchUpload", 404), Missing),
        (_client_error("404", 404), Missing),
        (_client_error("NoSuchBucket", 404), StoreError),
        (_client_error("AccessDenied", 403), StoreError),
        (_obstore_error(503, "SlowDown"), SlowDown),
        (_obstore_error(400, "ExpiredToken"), Transient),
        (_obstore_error(403, "AccessDenied"), StoreError),
        (obstore.exceptions.GenericError("connection reset by peer"), Transient),
        (obstore.exceptions.PreconditionError("412"), Conflict),
        (FileNotFoundError("k"), Missing),
        (ConnectionResetError(), Transient),
        (urllib3.exceptions.ProtocolError("Connection broken"), Transient),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), Transient),
        (botocore.exceptions.NoCredentialsError(), StoreError),
    ],
)
def test_translate(error: Exception, kind: type[StoreError]) -> None:
    assert type(translate(error)) is kind


def test_a_missing_bucket_says_so(s3_server: S3Server) -> None:
    store = S3("nobody-made-this", session=session(), endpoint=s3_server.url)
    with pytest.raises(StoreError, match="does not exist"):
        list(store.entries(""))


def test_an_object_without_an_etag_is_named(s3_server: S3Server, store: S3, bucket: str) -> None:
    """A file that was put beside the S3 server, not through it; found by the benchmark."""
    (s3_server.folder / bucket / "x.zip").write_bytes(b"x")
    with pytest.raises(StoreError, match="no ETag"):
        store.head("x.zip")
    assert [entry.etag for entry in store.entries("")] == [""]


def test_bytes_of_another_crc_are_refused(store: S3) -> None:
    with pytest.raises(StoreError):
        store.put("k", b"other bytes", "text/plain", {}, crc=zlib.crc32(b"the bytes"))
    with pytest.raises(Missing):
        store.head("k")
    store.put("k", b"the bytes", "text/plain", {}, crc=zlib.crc32(b"the bytes"))
