# ruff: noqa: N818 - named for what happened, as in the HTTP statuses they become
"""Everything that can go wrong with a request, as one tree.

Each class knows the HTTP status it becomes and the short reason under which it is counted.
``grpc`` is the name of the status code on the other protocol. Messages name the thing, the
value and the fix.
"""

from __future__ import annotations

from typing import ClassVar

from kit.http.problem import shortened


class InferenceError(Exception):
    """A request that is not answered with a prediction."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"
    grpc: ClassVar[str] = "INTERNAL"

    @property
    def message(self) -> str:
        """What the caller reads, never more than a few lines of what the caller has sent."""
        return shortened(str(self.args[0])) if self.args else type(self).__name__


class BadRequest(InferenceError):
    """The request is not one the model can be asked."""

    status = 400
    reason = "bad_request"
    grpc = "INVALID_ARGUMENT"


class InputsFailed(InferenceError):
    """The model, which answers other inputs, fails on these."""

    status = 400
    reason = "inputs_failed"
    grpc = "INVALID_ARGUMENT"


class RunTooLarge(InferenceError):
    """The model would need more memory for these inputs than a run may take."""

    status = 400
    reason = "run_memory"
    grpc = "INVALID_ARGUMENT"


class UnsupportedParameter(InferenceError):
    """The request asks, by a parameter, for something that is not done here."""

    status = 400
    reason = "unsupported"
    grpc = "UNIMPLEMENTED"


class NotServed(InferenceError):
    """The path or method belongs to an extension that is not served here."""

    status = 501
    reason = "not_served"
    grpc = "UNIMPLEMENTED"


class Forbidden(InferenceError):
    """The operator has switched this off."""

    status = 403
    reason = "forbidden"
    grpc = "PERMISSION_DENIED"


class NotFound(InferenceError):
    """No such path, model or version."""

    status = 404
    reason = "not_found"
    grpc = "NOT_FOUND"


class MethodNotAllowed(InferenceError):
    """The path is there, but not for this method."""

    status = 405
    reason = "method_not_allowed"
    grpc = "UNIMPLEMENTED"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class NotAcceptable(InferenceError):
    """None of the media types the caller accepts can be written."""

    status = 406
    reason = "not_acceptable"
    grpc = "INVALID_ARGUMENT"


class SlowBody(InferenceError):
    """The caller did not send its body within the request's time."""

    status = 408
    reason = "slow_body"
    grpc = "DEADLINE_EXCEEDED"


class TooLarge(InferenceError):
    """More bytes, or more rows, than this server takes in one request."""

    status = 413
    reason = "too_large"
    grpc = "RESOURCE_EXHAUSTED"


class UnsupportedMediaType(InferenceError):
    """The body is of a type this model cannot be asked in."""

    status = 415
    reason = "unsupported_media_type"
    grpc = "INVALID_ARGUMENT"


class Overloaded(InferenceError):
    """The queue is full. ``retry_after`` is in seconds."""

    status = 429
    reason = "overloaded"
    grpc = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class Cancelled(InferenceError):
    """The caller hung up; nobody reads this."""

    status = 499
    reason = "cancelled"
    grpc = "CANCELLED"


class ModelFailed(InferenceError):
    """ONNX Runtime failed, on inputs that it answered before too."""

    status = 500
    reason = "model_failed"
    grpc = "INTERNAL"


class Unavailable(InferenceError):
    """The model is known but not served at the moment."""

    status = 503
    reason = "unavailable"
    grpc = "UNAVAILABLE"


class DeadlineExceeded(InferenceError):
    """The request's time ran out in the queue or while it was run."""

    status = 504
    reason = "deadline_exceeded"
    grpc = "DEADLINE_EXCEEDED"


class ModelError(Exception):
    """A model cannot be fetched, read, loaded or warmed: never a request's fault.

    ``fix`` is what a person does about it. ``final`` means that another try finds the same.
    """

    def __init__(self, message: str, *, fix: str = "", final: bool = False) -> None:
        super().__init__(message)
        self.fix = fix
        self.final = final


class RepositoryError(ModelError):
    """The repository cannot be read at the moment, so nobody knows what models there are."""
