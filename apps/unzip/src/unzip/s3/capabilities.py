"""A check, before any work, that this S3 keeps the promises the ledger is built on."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from unzip.s3.errors import Conflict, Missing, StoreError
from unzip.s3.types import Absent, Matching, Store

_RACERS = 8


class UnfitStore(Exception):  # noqa: N818 - a verdict
    """The S3 server does not do conditional writes rightly; nothing is safe on it."""


def check_conditional_writes(store: Store, prefix: str) -> None:
    """Race several writers for one key: exactly one may win, and only its version be replaced.

    Claiming relies on the race for what is not there, taking over on that for one version.
    """
    key = f"{prefix}probe/{secrets.token_hex(8)}"

    def attempt(condition: Absent | Matching, header: str, number: int) -> str:
        try:
            return store.put(key, f"{header} {number}".encode(), "text/plain", {}, condition)
        except Conflict:
            return ""

    def race(pool: ThreadPoolExecutor, condition: Absent | Matching, header: str) -> str:
        one = partial(attempt, condition, header)
        winners = [etag for etag in pool.map(one, range(_RACERS)) if etag]
        if len(winners) != 1:
            raise UnfitStore(
                f"{len(winners)} of {_RACERS} writers won one {header} race; exactly one may: "
                "use Amazon S3, or versitygw 1.8.0 or newer"
            )
        return winners[0]

    try:
        with ThreadPoolExecutor(_RACERS) as pool:
            first = race(pool, Absent(), "If-None-Match")
            race(pool, Matching(first), "If-Match")
        try:
            store.put(key, b"x", "text/plain", {}, Matching('"0123456789abcdef"'))
        except (Conflict, Missing):
            return
        raise UnfitStore("a write over a version that is not there was accepted (If-Match)")
    finally:
        store.delete(key)


def copies_rightly(store: Store, prefix: str) -> Callable[[], bool]:
    """Whether the server copies exact ranges of a pinned version; found out once, when asked."""
    verdict: list[bool] = []

    def ask() -> bool:
        if not verdict:
            try:
                verdict.append(_copies_rightly(store, prefix))
            except StoreError:
                verdict.append(False)
        return verdict[0]

    return ask


def _copies_rightly(store: Store, prefix: str) -> bool:
    name = f"{prefix}probe/{secrets.token_hex(8)}"
    source, copy = name + ".source", name + ".copy"
    body = secrets.token_bytes(4096)
    etag = store.put(source, body, "application/octet-stream", {})
    upload = store.create_upload(copy, "application/octet-stream", {}, checksums=False)
    part = partial(store.copy_part, copy, upload, 1, source=source, start=7, end=4001)
    completed = False
    try:
        try:
            part(etag='"0123456789abcdef"')
        except Conflict:
            store.complete_upload(copy, upload, [part(etag=etag)])
            completed = True
            return store.get(copy).body == body[7:4001]
        return False
    finally:
        store.delete(source)
        if completed:
            store.delete(copy)
        else:
            store.abort_upload(copy, upload)
