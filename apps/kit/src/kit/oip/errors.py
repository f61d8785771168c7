"""What is wrong with a request or an answer of the protocol."""

from __future__ import annotations


class BadTensorError(ValueError):
    """A tensor that is not what its datatype, its shape or the model says.

    The message names the tensor, the value and the fix; it is the caller's to read.
    """


class BadAnswerError(ValueError):
    """An answer of a model server that is not what the protocol says."""


class BadElementError(ValueError):
    """One element of a tensor's data is wrong: which one (row-major, from 0), and why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason
