"""S3 as the service needs it: pinned reads, conditional writes, multipart by hand.

Ranged reads go through obstore (Rust, a third of boto3's CPU), writes in one request through
``put_client`` (half of obstore's); everything else goes through boto3. Errors of all become
those of ``errors``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import boto3
import botocore.exceptions
import obstore
import obstore.exceptions
import stamina
import urllib3.exceptions
from botocore.config import Config
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store as BulkStore

from unzip.s3.concurrency_limit import ConcurrencyLimit
from unzip.s3.errors import Missing, StoreError, Transient, of_answer, translate
from unzip.s3.put_client import Answer, PutClient, is_proxied
from unzip.s3.types import Absent, Condition, Document, Entry, Head, Matching, Part, Upload
from unzip.zip.headers import Buffer
from unzip.zip.member_data import crc32

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore.store import ClientConfig

P = ParamSpec("P")
T = TypeVar("T")


class S3:
    """A bucket through boto3 and obstore; thread-safe. Every call retries what is transient."""

    def __init__(
        self,
        bucket: str,
        *,
        session: boto3.session.Session | None = None,
        endpoint: str | None = None,
        concurrency: int = 32,
        attempts: int = 8,
        patience_seconds: float = 120.0,
        timeout_seconds: float = 60.0,
        pause_seconds: float = 0.1,
        on_retry: Callable[[Transient], None] = lambda error: None,
    ) -> None:
        self.bucket = bucket
        self._on_retry = on_retry
        session = session or boto3.session.Session()
        self._client: S3Client = session.client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                max_pool_connections=concurrency + 8,
                connect_timeout=5,
                read_timeout=timeout_seconds,
                # Retries are ours, so that they are counted, paced and fenced in one place.
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # What it sends of any size are parts, and those carry a CRC.
                s3={"payload_signing_enabled": False},
            ),
        )
        url = self._client.meta.endpoint_url
        options: ClientConfig = {
            "allow_http": url.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=timeout_seconds),
            "pool_max_idle_per_host": str(concurrency),
        }
        self._bulk = BulkStore(
            bucket,
            endpoint=None if url.endswith(".amazonaws.com") else url,
            region=self._client.meta.region_name,
            credential_provider=Boto3CredentialProvider(session, ttl=timedelta(minutes=5)),
            virtual_hosted_style_request=False,
            client_options=options,
            retry_config={"max_retries": 0},
        )
        self._put_client: PutClient | None = None
        credentials = session.get_credentials()
        if credentials is not None and not is_proxied(url):
            self._put_client = PutClient(
                url,
                self._client.meta.region_name,
                credentials.get_frozen_credentials,
                timeout_seconds=timeout_seconds,
                connections=concurrency,
            )
        self._limit = ConcurrencyLimit(concurrency)
        self._retry = stamina.RetryingCaller(
            attempts=attempts,
            timeout=patience_seconds,
            wait_initial=pause_seconds,
            wait_max=80 * pause_seconds,
            wait_jitter=10 * pause_seconds,
        ).on(Transient)

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def once() -> T:
            with self._limit:
                try:
                    return function(*args, **kwargs)
                except (
                    botocore.exceptions.BotoCoreError,
                    botocore.exceptions.ClientError,
                    obstore.exceptions.BaseError,
                    urllib3.exceptions.HTTPError,  # botocore lets it out of a body that was cut
                    OSError,
                ) as error:
                    raise translate(error) from error

        try:
            return once()
        except Transient as error:
            failed = error

        def again() -> T:
            nonlocal failed
            self._on_retry(failed)
            try:
                return once()
            except Transient as error:
                failed = error
                raise

        return self._retry(again)

    def head(self, key: str) -> Head:
        """What is at ``key``, or Missing."""
        got = self._call(self._client.head_object, Bucket=self.bucket, Key=key)
        if not got.get("ETag"):
            raise StoreError(f"{key} has no ETag, so no read of it can be pinned: upload it by S3")
        return Head(
            got["ETag"],
            got["ContentLength"],
            got["LastModified"],
            got.get("ContentType", ""),
            got["Metadata"],
        )

    def read(self, key: str, start: int, end: int, etag: str) -> Buffer:
        """Bytes [start, end) of the version ``etag``; Conflict or Missing if it is not there."""

        def once() -> Buffer:
            options: Any = {"range": (start, end), "if_match": etag}
            data = obstore.get(self._bulk, key, options=options).bytes()
            if len(data) != end - start:
                raise Transient(f"{len(data)} of {end - start} bytes came", code="ShortRead")
            return memoryview(data)

        return self._call(once)

    def get(self, key: str) -> Document:
        """A small object with all its bytes, or Missing."""

        def once() -> Document:
            got = self._client.get_object(Bucket=self.bucket, Key=key)
            now = parsedate_to_datetime(got["ResponseMetadata"]["HTTPHeaders"]["date"])
            age = (now - got["LastModified"]).total_seconds()
            return Document(got["Body"].read(), got["ETag"], max(0.0, age))

        return self._call(once)

    def entries(self, prefix: str, start_after: str = "") -> Iterator[Entry]:
        """Objects in the order of their keys, page by page."""
        extra: dict[str, Any] = {"StartAfter": start_after} if start_after else {}
        while True:
            page = self._call(
                self._client.list_objects_v2, Bucket=self.bucket, Prefix=prefix, **extra
            )
            for row in page.get("Contents", []):
                yield Entry(row["Key"], row.get("ETag", ""), row["Size"], row["LastModified"])
            if not page.get("IsTruncated"):
                return
            extra = {"ContinuationToken": page["NextContinuationToken"]}

    def put(
        self,
        key: str,
        body: Buffer,
        content_type: str,
        metadata: Mapping[str, str],
        condition: Condition = None,
        *,
        crc: int | None = None,
    ) -> str:
        """Write an object in one request; its ETag. Conflict where ``condition`` does not hold.

        S3 refuses bytes that arrive with another CRC-32 than ``crc``, or than they were sent with.
        """
        checksum = _base64(crc32(body) if crc is None else crc)
        if self._put_client is None:
            return self._call(
                self._client.put_object,
                Bucket=self.bucket,
                Key=key,
                Body=bytes(body),
                ContentType=content_type,
                Metadata=dict(metadata),
                ChecksumCRC32=checksum,
                **_conditions(condition),
            )["ETag"]
        headers = {"content-type": content_type, "x-amz-checksum-crc32": checksum}
        headers |= {f"x-amz-meta-{name}": value for name, value in metadata.items()}
        if isinstance(condition, Absent):
            headers["if-none-match"] = "*"
        elif isinstance(condition, Matching):
            headers["if-match"] = condition.etag
        answer = self._call(self._put, self._put_client, f"/{self.bucket}/{key}", headers, body)
        return answer.headers["etag"]

    @staticmethod
    def _put(client: PutClient, path: str, headers: Mapping[str, str], body: Buffer) -> Answer:
        answer = client.put(path, headers, body)
        if answer.status != HTTPStatus.OK:
            raise of_answer(answer.status, answer.body)
        return answer

    def delete(self, key: str, etag: str = "") -> None:
        """Delete an object, only this version if ``etag`` is given; absent is fine."""
        extra: dict[str, Any] = {"IfMatch": etag} if etag else {}
        try:
            self._call(self._client.delete_object, Bucket=self.bucket, Key=key, **extra)
        except Missing:
            return

    def create_upload(
        self,
        key: str,
        content_type: str,
        metadata: Mapping[str, str],
        *,
        checksums: bool = True,
    ) -> str:
        """Begin a multipart upload; its id. With ``checksums`` S3 checks the CRC of each part.

        Not for parts it copies: versitygw 1.8 gives a copied range the CRC of all its source.
        """
        extra: dict[str, Any] = {}
        if checksums:
            extra = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        return self._call(
            self._client.create_multipart_upload,
            Bucket=self.bucket,
            Key=key,
            ContentType=content_type,
            Metadata=dict(metadata),
            **extra,
        )["UploadId"]

    def upload_part(self, key: str, upload: str, number: int, body: bytes | bytearray) -> Part:
        """Send one part of an upload with checksums, numbered from 1."""
        crc = _base64(crc32(body))
        answer = self._call(
            self._client.upload_part,
            Bucket=self.bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            Body=cast(bytes, body),  # botocore takes a bytearray as well
            ChecksumCRC32=crc,
        )
        return Part(answer["ETag"], crc)

    def copy_part(
        self,
        key: str,
        upload: str,
        number: int,
        *,
        source: str,
        etag: str,
        start: int,
        end: int,
    ) -> Part:
        """One part from bytes [start, end) of ``source`` at version ``etag``, copied by S3."""
        answer = self._call(
            self._client.upload_part_copy,
            Bucket=self.bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": self.bucket, "Key": source},
            CopySourceRange=f"bytes={start}-{end - 1}",
            CopySourceIfMatch=etag,
        )
        return Part(answer["CopyPartResult"]["ETag"])

    def complete_upload(
        self,
        key: str,
        upload: str,
        parts: Sequence[Part],
        condition: Condition = None,
        *,
        crc: int | None = None,
    ) -> str:
        """Make the parts one object; its ETag.

        Where the parts carry checksums and ``crc`` is given, S3 refuses what has another CRC-32.
        """
        extra = _conditions(condition)
        if crc is not None and all(part.crc for part in parts):
            extra |= {"ChecksumCRC32": _base64(crc), "ChecksumType": "FULL_OBJECT"}
        rows: Any = [
            {"PartNumber": number, "ETag": part.etag}
            | ({"ChecksumCRC32": part.crc} if part.crc else {})
            for number, part in enumerate(parts, 1)
        ]
        return self._call(
            self._client.complete_multipart_upload,
            Bucket=self.bucket,
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": rows},
            **extra,
        )["ETag"]

    def abort_upload(self, key: str, upload: str) -> None:
        """Drop an upload's parts; one that is gone is fine."""
        try:
            self._call(
                self._client.abort_multipart_upload, Bucket=self.bucket, Key=key, UploadId=upload
            )
        except Missing:
            return

    def list_uploads(self, prefix: str) -> Iterator[Upload]:
        """Multipart uploads that were begun under ``prefix`` and not ended."""
        extra: dict[str, Any] = {}
        while True:
            page = self._call(
                self._client.list_multipart_uploads, Bucket=self.bucket, Prefix=prefix, **extra
            )
            for row in page.get("Uploads", []):
                yield Upload(row["Key"], row["UploadId"], row["Initiated"])
            if not page.get("IsTruncated"):
                return
            extra = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }


def _conditions(condition: Condition) -> dict[str, Any]:
    if isinstance(condition, Absent):
        return {"IfNoneMatch": "*"}
    return {"IfMatch": condition.etag} if isinstance(condition, Matching) else {}


def _base64(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
