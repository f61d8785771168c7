"""Writes over exactly what was there before, until what is there is ours."""

from __future__ import annotations

from collections.abc import Callable

from unzip.s3.errors import Conflict, Missing, StoreError
from unzip.s3.types import Absent, Condition, Head, Matching, Store

_TRIES = 5


def write_until_there(
    store: Store,
    key: str,
    write: Callable[[Condition], object],
    condition: Condition,
    *,
    ours: Callable[[Head], bool],
    fenced: Callable[[], object],
) -> bool:
    """Write to ``key``, the first time on ``condition``, then over what is found there.

    False: ``ours`` says that it was there already, from a call whose answer was lost. ``fenced``
    is called where somebody else may have been faster; it raises if the archive is no longer ours.
    """
    for _ in range(_TRIES):
        try:
            write(condition)
            return True
        except (Conflict, Missing) as error:
            fenced()
            try:
                head = store.head(key)
            except Missing:
                condition = Absent()
            else:
                if ours(head):
                    return False
                condition = Matching(head.etag)
            if isinstance(error, Missing):
                raise StoreError(f"the upload of {key} is gone") from error
    raise StoreError(f"{key} is written by somebody else again and again")
