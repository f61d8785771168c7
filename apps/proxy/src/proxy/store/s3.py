"""Inputs and results too large for Redis, in S3."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from kit.http.problem import Problem
from kit.memory.budget import BusyError
from proxy.http.body import bodies_busy

# S3 that hangs must not keep a caller, or a job of a worker, for boto3's minutes.
CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0


Hold = Callable[[int], None]
"""Gets the bytes that are to be in memory; BusyError where there is no room for them."""


def unbounded(_: int) -> None:
    """Where nothing is counted."""


class Blobs:
    """Objects in one bucket, by key. boto3 in threads; the bucket may be none."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="blobs") if bucket else None
        self._client: Any = None

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Store an object. Problem 413 without a bucket, 503 where S3 does not take it."""
        await self._run(
            len(data),
            lambda client: client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type
            ),
        )

    async def get(self, key: str, hold: Hold = unbounded) -> bytes:
        """An object's bytes. Problem 503 where it cannot be read.

        ``hold`` gets twice its size before it is read, for what is made of them: Problem
        429 where it raises BusyError.
        """
        found = await self._run(0, lambda client: client.get_object(Bucket=self.bucket, Key=key))
        try:
            hold(2 * int(found["ContentLength"]))
        except BusyError as error:
            found["Body"].close()
            raise bodies_busy(error) from None
        data: bytes = await self._run(0, lambda _: found["Body"].read())
        return data

    async def _run(self, size: int, work: Any) -> Any:
        if self._threads is None:
            raise Problem(
                413,
                "body-too-large",
                f"{size} bytes are more than Redis is given; set PROXY_JOBS' `bucket` so that "
                "large inputs and results go through S3",
            )

        def run() -> Any:
            if self._client is None:
                import boto3  # a tenth of a second and 10 MB  # noqa: PLC0415

                self._client = boto3.session.Session().client(
                    "s3",
                    config=Config(
                        connect_timeout=CONNECT_SECONDS,
                        read_timeout=READ_SECONDS,
                        retries={"mode": "standard", "total_max_attempts": 3},
                    ),
                )
            return work(self._client)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except (BotoCoreError, ClientError) as error:
            raise Problem(
                503,
                "blobs-unavailable",
                f"S3 did not store or give a job's data: {error}",
                headers={"retry-after": "2"},
            ) from error

    def close(self) -> None:
        """Let go of the threads."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
