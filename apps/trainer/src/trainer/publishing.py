"""Publishes a model to S3 as ``<name>/<version>/``, and never over another one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from kit.oip.errors import BadTensorError
from kit.oip.samples import check_size, read_samples

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "model.json"
_WHICH_RUN = {"run_id", "source_revision"}
_OTHER_VERSION = "versions are never overwritten, choose another --version or `--version next`"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PublishError(Exception):
    """The model cannot be published; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Published:
    """What `release model set` needs to know: ``sha256`` is that of ``model.json``.

    ``created`` is False where it was there before.
    """

    name: str
    version: str
    uri: str
    sha256: str
    created: bool

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "name": self.name,
            "version": self.version,
            "uri": self.uri,
            "sha256": self.sha256,
            "created": self.created,
        }


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    datatype: str
    shape: list[int]


def read(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The model's bytes and manifest; PublishError where they are missing or disagree."""
    try:
        model = (folder / MODEL_FILE).read_bytes()
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{folder}: {error}: run `trainer train --to {folder}` first") from None
    if (digest := hashlib.sha256(model).hexdigest()) != manifest.get("sha256"):
        raise PublishError(
            f"{folder / MODEL_FILE} has sha256 {digest}, but {MANIFEST_FILE} says "
            f"{manifest.get('sha256')}: train again"
        )
    for name, path in data_files(folder, manifest).items():
        if (digest := _sha256_of(path)) != manifest["data_files"][name]:
            raise PublishError(
                f"{path} has sha256 {digest}, but {MANIFEST_FILE} says "
                f"{manifest['data_files'][name]}"
            )
    check_samples(manifest)
    return model, manifest


def data_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    """The other files of a version by name; PublishError where one is no file of the folder."""
    found = {name: folder / name for name in manifest.get("data_files") or {}}
    for name, path in found.items():
        if not _NAME.fullmatch(name) or not path.is_file():
            raise PublishError(f"{path}: {MANIFEST_FILE} lists it, and there is no such file")
    return found


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_samples(manifest: Mapping[str, Any]) -> None:
    """PublishError where ``samples`` are too large or no requests for the model's inputs."""
    try:
        inputs = {str(spec["name"]): _Input(**spec) for spec in manifest.get("inputs") or ()}
        samples = manifest.get("samples") or []
        check_size(samples)
        if inputs:
            takes_images = bool(manifest.get("preprocess")) and len(inputs) == 1
            read_samples(
                samples, inputs, model=str(manifest.get("name")), takes_images=takes_images
            )
    except (BadTensorError, KeyError, TypeError) as error:
        raise PublishError(f"{MANIFEST_FILE}: {error}") from None


def check_names(manifest: Mapping[str, Any]) -> None:
    """PublishError where name or version are none that the model server takes."""
    for field in ("name", "version"):
        value = str(manifest[field])
        if not _NAME.fullmatch(value):
            raise PublishError(
                f"{field} {value[:100]!r}: it becomes part of a path; use letters, digits, and "
                "`.`, `_`, `-` behind the first, at most 128"
            )


def parse_repository(uri: str) -> tuple[str, str]:
    """``s3://bucket/prefix`` as bucket and prefix (without slashes at its ends)."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise PublishError(f"repository {uri!r} is no s3://bucket[/prefix]")
    return parts.netloc, parts.path.strip("/")


def check_metrics(manifest: Mapping[str, Any], *, min_accuracy: float) -> None:
    """PublishError where the held-out accuracy is under ``min_accuracy`` (0 to 1; 0 asks none)."""
    if min_accuracy == 0:
        return
    measured = (manifest.get("metrics") or {}).get("accuracy")
    if measured is None:
        raise PublishError(
            f"{MANIFEST_FILE} has no metrics.accuracy: nobody measured it, so it cannot be held "
            f"against --min-accuracy {min_accuracy:.4f}; with --min-accuracy 0 it is published"
        )
    accuracy = float(measured)
    if accuracy < min_accuracy:
        raise PublishError(
            f"held-out accuracy {accuracy:.4f} is under --min-accuracy {min_accuracy:.4f}: "
            "not published"
        )


def next_version(client: S3Client, repository: str, name: str) -> str:
    """One more than the largest numeric version published under ``name``; "1" for the first."""
    bucket, prefix = parse_repository(repository)
    base = f"{prefix}/{name}/".lstrip("/")
    largest = 0
    for page in client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=base, Delimiter="/"
    ):
        for common in page.get("CommonPrefixes", []):
            version = common.get("Prefix", "").removeprefix(base).rstrip("/")
            largest = max(largest, int(version) if version.isdecimal() else 0)
    return str(largest + 1)


def publish(
    client: S3Client,
    repository: str,
    model: bytes,
    manifest: Mapping[str, Any],
    data: Mapping[str, Path] | None = None,
) -> Published:
    """Put ``model.onnx`` and ``data``, then ``model.json``, each only if nothing is there yet.

    The manifest comes last, so a version without one is unfinished and never served. Where
    the same model was published before, completely or in part, the rest is done and nothing
    is changed, not even which run made it; where another one was, or the same ``model.onnx``
    with another ``model.json``, PublishError.
    """
    bucket, prefix = parse_repository(repository)
    check_names(manifest)
    name, version = str(manifest["name"]), str(manifest["version"])
    folder = f"{prefix}/{name}/{version}".lstrip("/")
    uri = f"s3://{bucket}/{folder}"
    model_is_new = _put_new(client, bucket, f"{folder}/{MODEL_FILE}", model)
    if not model_is_new:
        there = client.get_object(Bucket=bucket, Key=f"{folder}/{MODEL_FILE}")["Body"].read()
        if (digest := hashlib.sha256(there).hexdigest()) != manifest["sha256"]:
            raise PublishError(
                f"{uri} holds another model (sha256 {digest}, not {manifest['sha256']}): "
                f"{_OTHER_VERSION}"
            )
    for each, path in (data or {}).items():
        key = f"{folder}/{each}"
        with path.open("rb") as file:
            if _put_new(client, bucket, key, file):
                continue
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        there_now = hashlib.sha256()
        for chunk in body.iter_chunks(1024 * 1024):
            there_now.update(chunk)
        if there_now.hexdigest() != manifest["data_files"][each]:
            raise PublishError(f"{uri} holds another {each}: {_OTHER_VERSION}")
    document = dump(manifest)
    manifest_is_new = _put_new(client, bucket, f"{folder}/{MANIFEST_FILE}", document)
    if not manifest_is_new:
        document = client.get_object(Bucket=bucket, Key=f"{folder}/{MANIFEST_FILE}")["Body"].read()
        if differing := _differing(document, manifest):
            raise PublishError(
                f"{uri} holds this model with another {MANIFEST_FILE} "
                f"({', '.join(differing)}): {_OTHER_VERSION}"
            )
    sha256 = hashlib.sha256(document).hexdigest()
    return Published(name, version, uri, sha256, created=model_is_new or manifest_is_new)


def dump(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of ``model.json`` as it is published."""
    return (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()


def _differing(published: bytes, manifest: Mapping[str, Any]) -> list[str]:
    """Fields that are not as published, except those that only say which run made the model."""
    try:
        there = json.loads(published)
    except ValueError:
        return ["it is no JSON"]
    if not isinstance(there, dict):
        return ["it is no object"]
    names = (there.keys() | manifest.keys()) - _WHICH_RUN
    return sorted(name for name in names if there.get(name) != manifest.get(name))


def _put_new(client: S3Client, bucket: str, key: str, body: bytes | BinaryIO) -> bool:
    """True where this call created the object, False where one was there."""
    try:
        client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("PreconditionFailed", "412"):
            return False
        if code == "ConditionalRequestConflict":  # another writer is at it; it will be there
            return False
        raise PublishError(f"s3://{bucket}/{key}: {error}") from error
    return True
