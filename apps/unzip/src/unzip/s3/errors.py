"""What S3 refused or failed to do, as one tree of errors."""

from __future__ import annotations

import re
from collections.abc import Iterable

import botocore.exceptions
import obstore
import obstore.exceptions
import urllib3.exceptions


class StoreError(Exception):
    """S3 did not do what was asked; ``code`` is its own word for it."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Missing(StoreError):  # noqa: N818 - an answer like any other
    """There is no such object."""


class Conflict(StoreError):  # noqa: N818
    """The condition of a read or write does not hold: somebody else was faster."""


class Transient(StoreError):  # noqa: N818
    """Worth trying again: resets, timeouts, 500, 503, expired credentials."""


class SlowDown(Transient):
    """S3 asks for fewer requests."""


_SLOW = {"SlowDown", "503", "Throttling", "ThrottlingException", "RequestLimitExceeded", "429"}
_TRANSIENT = {
    "500", "502", "504", "408", "InternalError", "ServiceUnavailable", "RequestTimeout",
    "ExpiredToken", "ExpiredTokenException", "RequestTimeTooSkewed", "OperationAborted",
}  # fmt: skip
_MISSING = {"404", "NoSuchKey", "NoSuchUpload", "NotFound"}
_CONFLICT = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSED = {
    "401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",
}  # fmt: skip


def fix_of(error: StoreError) -> str:
    """What a person does about a store that cannot be used at all."""
    if error.code == "NoSuchBucket":
        return "create the bucket, or correct UNZIP_BUCKET"
    if error.code in _REFUSED:
        return (
            "give the pod keys or a role that may list, read and write this bucket "
            "(`envFromSecrets`, or the role of its service account)"
        )
    return "look whether S3 answers at AWS_ENDPOINT_URL_S3, or in AWS_REGION, from this namespace"


def translate(error: Exception) -> StoreError:
    """The error of boto3 or obstore in our words; by S3's code first, then by HTTP status."""
    if isinstance(error, botocore.exceptions.ClientError):
        answer = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        status = str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        return _by_name(code, status, str(error))
    if isinstance(error, botocore.exceptions.BotoCoreError):
        if isinstance(
            error,
            botocore.exceptions.NoCredentialsError | botocore.exceptions.ParamValidationError,
        ):
            return StoreError(str(error), code=type(error).__name__)
        return Transient(str(error), code=type(error).__name__)
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return Missing(text, code="404")
    if isinstance(
        error, obstore.exceptions.AlreadyExistsError | obstore.exceptions.PreconditionError
    ):
        return Conflict(text, code="412")
    code_found, status_found = _CODE.search(text), _STATUS.search(text)
    if code_found or status_found:
        return _by_name(
            code_found.group(1) if code_found else "",
            status_found.group(1) if status_found else "",
            text,
        )
    if isinstance(error, obstore.exceptions.GenericError | urllib3.exceptions.HTTPError | OSError):
        return Transient(text, code=type(error).__name__)
    return StoreError(text, code=type(error).__name__)


def of_answer(status: int, body: bytes) -> StoreError:
    """The error that an HTTP answer of S3 (an XML document, or none) stands for."""
    text = body.decode(errors="replace")
    code = _CODE.search(text)
    return _by_name(code.group(1) if code else "", str(status), text)


def _by_name(code: str, status: str, text: str) -> StoreError:
    tables: Iterable[tuple[set[str], type[StoreError]]] = (
        (_SLOW, SlowDown),
        (_TRANSIENT, Transient),
        (_CONFLICT, Conflict),
        (_MISSING, Missing),
    )
    if code == "NoSuchBucket":
        return StoreError(text, code=code)
    for name in (code, status):
        for names, kind in tables:
            if name in names:
                return kind(text, code=code or status)
    return StoreError(text, code=code or status)
