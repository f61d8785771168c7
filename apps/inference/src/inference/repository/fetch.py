"""Gets one version of a model into a folder, complete and with the right sha256, or not at all.

A version is named by the sha256 of its ``model.json``, which names every other file's.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import stamina
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from inference.errors import ModelError
from inference.repository import manifest
from kit.lifecycle.termination import NOT_READY
from kit.telemetry import logs

log = logs.get("inference.fetch")

_SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK = 8 * 1024 * 1024
ATTEMPTS = 8
_ABSENT = (NotFoundError, FileNotFoundError)  # obstore raises the built-in one for some stores
_DENIED = (PermissionDeniedError, UnauthenticatedError)
_FINAL = (*_ABSENT, *_DENIED)
_OTHER_ADDRESS = "give the address of a version, as `release model set` writes it"
_OTHER_SHA256 = (
    "write the sha256 of the published model.json into Git with `release model set`, or publish "
    "the model again as a new version"
)
_OTHER_BYTES = (
    "publish the model again as a new version, and set that one with `release model set`: what "
    "was published is never changed"
)
_PUBLISH = "publish this version, or set one that is there with `release model set`"
_KEYS = (
    "give the pod keys or a role that may read this bucket (`envFromSecrets`, or the role of its "
    "service account)"
)
_REACH_S3 = "look whether S3 answers at AWS_ENDPOINT_URL_S3, or in AWS_REGION, from this namespace"

Store = S3Store | LocalStore


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entry of the map in Git: a model's name and version, where it lies, and its sha256.

    Empty fields take whatever ``model.json`` says.
    """

    uri: str
    sha256: str = ""
    name: str = ""
    version: str = ""


def parse_wanted(text: str) -> Wanted:
    """``iris/1=s3://models/iris/1@sha256:…`` as its parts; ModelError where one is missing."""
    place, equals, rest = text.partition("=")
    name, slash, version = place.partition("/")
    uri, at, sha256 = rest.rpartition("@sha256:")
    if not (equals and slash and at and name and version and uri and _SHA256.fullmatch(sha256)):
        raise ModelError(
            f"--model {text!r} is not NAME/VERSION=URI@sha256:HEX",
            fix="write it like iris/1=s3://models/iris/1@sha256:… (64 lower-case hex digits)",
            final=True,
        )
    return Wanted(uri, sha256, name, version)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where a model lies now; ``sha256`` is that of its ``model.json``.

    ``bytes_read`` counts the other files, and is 0 where they were there already.
    """

    folder: Path
    name: str
    version: str
    sha256: str
    bytes_read: int


def open_store(uri: str, *, timeout: float = 30.0) -> Store:
    """The store behind ``s3://bucket[/prefix]``, ``file:///folder`` or a folder's path.

    S3's address and credentials are those of the AWS SDKs' variables; ``timeout`` is for one
    request, in seconds. ModelError where the URI is neither.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3" and parts.netloc:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        config: dict[str, Any] = {"virtual_hosted_style_request": endpoint is None}
        if endpoint:
            config["endpoint"] = endpoint
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region:
            config["region"] = region
        return S3Store(
            parts.netloc,
            prefix=unquote(parts.path.strip("/")) or None,
            config=config,  # type: ignore[arg-type]
            client_options={
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "timeout": timedelta(seconds=timeout),
            },
            # retries are ours: they resume where the last attempt stopped
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=timeout)},
        )
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path) if parts.scheme else uri)
        if not folder.is_dir():
            raise ModelError(f"{uri}: there is no such folder", fix=_OTHER_ADDRESS, final=True)
        return LocalStore(folder)
    raise ModelError(
        f"{uri!r} is neither s3://bucket/prefix nor a folder", fix=_OTHER_ADDRESS, final=True
    )


async def fetch_all(
    wanted: Sequence[Wanted], to: Path, *, time_limit: float = 600.0
) -> list[Fetched]:
    """Each of them as `fetch` does it, one after another, within ``time_limit`` seconds in all.

    ModelError where one cannot be had, or is another model than asked for.
    """
    deadline = asyncio.get_running_loop().time() + time_limit
    found: list[Fetched] = []
    for one in wanted:
        left = max(deadline - asyncio.get_running_loop().time(), 0.001)
        fetched = await fetch(one.uri, to, sha256=one.sha256, time_limit=left)
        there = (fetched.name, fetched.version)
        if (one.name or fetched.name, one.version or fetched.version) != there:
            raise ModelError(
                f"{one.uri} holds {fetched.name} {fetched.version} by its model.json, but "
                f"{one.name} {one.version} was asked for: refused",
                fix=f"write it into Git under its name, with `release model set --name "
                f"{fetched.name} --version {fetched.version}`",
                final=True,
            )
        found.append(fetched)
    return found


async def fetch(
    uri: str,
    to: Path,
    *,
    sha256: str = "",
    time_limit: float = 600.0,
    request_timeout: float = 30.0,
    attempts: int = ATTEMPTS,
) -> Fetched:
    """Copy ``uri`` (a version's folder) to ``to/<name>/<version>``.

    ``sha256`` (lower-case hex) must be that of the bytes of ``model.json``, which then must name
    that of ``model.onnx``; "" takes any. ``model.onnx`` and the files in ``data_files`` must have
    the sha256 that ``model.json`` names. What a broken connection left is resumed, with
    pauses, until ``time_limit`` seconds are over. The folder appears by one rename when all is
    right, so nobody ever sees half a model. ModelError says why there is none.
    """
    try:
        async with asyncio.timeout(time_limit):
            return await _fetch(uri, to, sha256, request_timeout, attempts)
    except TimeoutError:
        raise ModelError(f"{uri}: not fetched within {time_limit:g} s", fix=_REACH_S3) from None


async def _fetch(uri: str, to: Path, sha256: str, request_timeout: float, attempts: int) -> Fetched:
    store = open_store(uri, timeout=request_timeout)
    retry = _retrying(attempts)
    document = await retry(lambda: _read(store, manifest.FILE), f"{uri}/{manifest.FILE}")
    described = manifest.parse(document, where=f"{uri}/{manifest.FILE}")
    digest = hashlib.sha256(document).hexdigest()
    if sha256:
        _check_pinned(uri, described, digest, sha256)
    folder = to / described.name / described.version
    files = {manifest.MODEL_FILE: described.sha256} | described.data_files
    if described.sha256 is not None and await asyncio.to_thread(
        _holds, folder, files | {manifest.FILE: digest}
    ):
        return Fetched(folder, described.name, described.version, digest, 0)
    staging = to / f".{described.name}-{described.version}.part"
    staging.mkdir(parents=True, exist_ok=True)
    read = 0
    for name, wanted in files.items():
        part = staging / name
        read += await retry(partial(_resume, store, name, part), f"{uri}/{name}")
        found = await asyncio.to_thread(_sha256_of, part)
        if wanted is not None and found != wanted:
            shutil.rmtree(staging)
            raise ModelError(
                f"{uri}/{name} has sha256 {found}, but its model.json says {wanted}: refused",
                fix=_OTHER_BYTES, final=True,
            )  # fmt: skip
    for name in files:
        _mark(staging / name).unlink()
    (staging / manifest.FILE).write_bytes(document)
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging.rename(folder)
    return Fetched(folder, described.name, described.version, digest, read)


def _check_pinned(uri: str, described: manifest.Manifest, digest: str, wanted: str) -> None:
    """ModelError unless ``digest``, of ``model.json``, is the ``wanted`` one and names a model's.

    Entries that `release` wrote before it pinned ``model.json`` hold the sha256 of ``model.onnx``.
    """
    if digest != wanted:
        command = (
            f"release model set --env <environment> --name {described.name} "
            f"--version {described.version} --uri {uri} --sha256 {digest}"
        )
        if wanted == described.sha256:
            raise ModelError(
                f"{uri}: {wanted} is the sha256 of model.onnx, but that of model.json is asked "
                f"for, which is {digest}: refused",
                fix=f"write the entry again: `{command}`", final=True,
            )  # fmt: skip
        raise ModelError(
            f"{uri}: model.json has sha256 {digest}, but {wanted} was asked for: refused",
            fix=f"{_OTHER_SHA256}: `{command}` where this one is meant", final=True,
        )  # fmt: skip
    if described.sha256 is None:
        raise ModelError(
            f"{uri}: model.json does not name the sha256 of model.onnx, so nothing says which "
            "bytes are meant: refused",
            fix='publish a new version whose model.json has "sha256"', final=True,
        )  # fmt: skip


def _retrying(attempts: int) -> Any:
    async def run(step: Callable[[], Any], what: str) -> Any:
        try:
            async for attempt in stamina.retry_context(
                on=lambda error: (
                    isinstance(error, (BaseError, OSError)) and not isinstance(error, _FINAL)
                ),
                attempts=attempts,
                timeout=None,
                wait_initial=0.2,
                wait_max=10.0,
            ):
                with attempt:
                    return await _said(step, what, attempt.num)
        except _ABSENT:
            raise ModelError(f"{what} does not exist", fix=_PUBLISH, final=True) from None
        except _DENIED as error:
            raise ModelError(f"{what} cannot be read: {_first_line(error)}", fix=_KEYS) from None
        except (BaseError, OSError) as error:
            raise ModelError(
                f"{what} cannot be read: {_first_line(error)}", fix=_REACH_S3
            ) from None

    return run


async def _said(step: Callable[[], Any], what: str, attempt: int) -> Any:
    """One attempt; that it failed is said while the next ones are still to come."""
    try:
        return await step()
    except _FINAL:
        raise
    except (BaseError, OSError) as error:
        reason = f"{what} cannot be read: {_first_line(error)}"
        log.warning(NOT_READY, reason=reason, fix=_REACH_S3, attempt=attempt)
        raise


async def _read(store: Store, path: str) -> bytes:
    return bytes(await (await store.get_async(path)).bytes_async())


async def _resume(store: Store, path: str, part: Path) -> int:
    """Bytes read now; what ``part`` holds of the same object is kept."""
    meta = await store.head_async(path)
    size, tag = meta["size"], meta["e_tag"] or ""
    at = started = _kept(part, tag, size)
    with part.open("ab") as file:
        while at < size:
            chunk = await store.get_range_async(path, start=at, end=min(at + CHUNK, size))
            file.write(memoryview(chunk))
            file.flush()
            at += len(chunk)
    if started:
        log.info("resumed", path=path, kept_bytes=started)
    return size - started


def _kept(part: Path, tag: str, size: int) -> int:
    """Bytes of the object with this tag that an earlier attempt left, the rest cleared away."""
    mark = _mark(part)
    if not mark.exists() or mark.read_text() != tag:
        part.unlink(missing_ok=True)
        mark.write_text(tag)
    kept = part.stat().st_size if part.exists() else 0
    if kept <= size:
        return kept
    part.unlink()
    return 0


def _mark(part: Path) -> Path:
    """Where the tag of the object that ``part`` is a part of stands."""
    return part.with_name(f".{part.name}.tag")


def _holds(folder: Path, files: Mapping[str, str | None]) -> bool:
    return all(_sha256_of(folder / name) == digest for name, digest in files.items())


def _sha256_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
