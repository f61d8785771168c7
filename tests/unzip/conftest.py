"""A real S3 server on a memory file system, and the service upon it."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server, serve_s3
from tests.unzip.support import OPTIONS
from unzip.extract.extractor import Extractor
from unzip.s3.client import S3


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(
            prefix="slipway-unzip-", dir=memory if memory.is_dir() else None
        ) as folder,
        serve_s3(Path(folder), ["first"]) as server,
    ):
        yield server


class _Session(boto3.session.Session):
    """Makes each client once: making one is most of a small test's time."""

    def __init__(self, **given: str) -> None:
        super().__init__(**given)
        self._clients: dict[str, Any] = {}

    def client(self, name: Any, **given: Any) -> Any:
        settings = vars(given["config"])["_user_provided_options"]
        key = f"{name} {given['endpoint_url']} {sorted(settings.items())}"
        if key not in self._clients:
            self._clients[key] = super().client(name, **given)
        return self._clients[key]


@functools.cache
def session() -> boto3.session.Session:
    return _Session(
        aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=REGION
    )


_numbers = itertools.count()


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """A fresh bucket."""
    name = f"archives-{next(_numbers)}"
    (s3_server.folder / name).mkdir()
    return name


@pytest.fixture
def store(s3_server: S3Server, bucket: str) -> S3:
    """A client of a fresh bucket."""
    return S3(bucket, session=session(), endpoint=s3_server.url, concurrency=16)


@pytest.fixture(scope="session")
def extractor() -> Iterator[Extractor]:
    with Extractor(OPTIONS) as extractor:
        yield extractor
