"""Finding archives: by listing the bucket, without walking through what was extracted."""

from __future__ import annotations

from collections.abc import Iterator

from unzip.s3.types import Entry, Store

_LAST = "\U0010ffff"


def result_prefix(key: str) -> str:
    """Where an archive's files go: ``u/result.zip`` -> ``u/result/``."""
    return key.rpartition(".")[0] + "/"


def holders(key: str, suffix: str) -> Iterator[str]:
    """Keys of the archives that have, or would have, ``key`` among their files."""
    extension = suffix[suffix.rindex(".") :]
    at = key.find("/")
    while at >= 0:
        holder = key[:at] + extension
        if holder.endswith(suffix) and holder != suffix:
            yield holder
        at = key.find("/", at + 1)


def archives(store: Store, *, prefix: str, suffix: str, state_prefix: str) -> Iterator[Entry]:
    """Every archive under ``prefix`` whose key ends with ``suffix``, in the order of the keys.

    A listing cannot filter by suffix, and an archive's own files come right behind it
    (``result.zip`` < ``result/``): they are jumped over, so a bucket of n archives with a
    million files costs about n/1000 + (large archives) pages.
    """
    start_after = ""
    while True:
        seen_within = 0
        skip = ""
        for entry in store.entries(prefix, start_after):
            if entry.key.startswith(state_prefix):
                start_after = state_prefix + _LAST
                break
            if skip and entry.key.startswith(skip):
                seen_within += 1
                if seen_within > 200:  # the page is paid for; the next one need not be
                    start_after = skip + _LAST
                    break
                continue
            seen_within = 0
            if entry.key.endswith(suffix) and entry.key != suffix:
                skip = result_prefix(entry.key)
                yield entry
        else:
            return
