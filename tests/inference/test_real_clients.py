"""Clients that others wrote work unchanged: Triton's, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.inference import small_models
from tests.inference.conftest import Serve
from tests.programs import require

CLIENT = "tritonclient[grpc,http]==2.73.0"


async def run(*command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_tritons_clients_work_unchanged(serve: Serve, repository: Path) -> None:
    uv = require("uv")
    python = [uv, "run", "--quiet", "--isolated", "--no-project", "--python", "3.11",
              "--with", CLIENT, "python"]  # fmt: skip
    code, _, why = await run(*python, "-c", "import tritonclient.grpc, tritonclient.http")
    if code != 0 and not os.environ.get("CI"):
        pytest.skip(f"{CLIENT} does not install: {why[-200:]}")
    small_models.put(repository, "affine", "1", small_models.affine())
    small_models.put(repository, "bytes", "1", small_models.identity("BYTES"))
    script = str(Path(__file__).with_name("real_client.py"))
    async with serve(repository_control=True) as running:
        addresses = (f"127.0.0.1:{running.port}", f"127.0.0.1:{running.grpc_port}")
        code, out, err = await run(*python, script, *addresses)
    assert code == 0, err
    seen = json.loads(out)
    for protocol, status in (("http", "404"), ("grpc", "StatusCode.NOT_FOUND")):
        assert seen[protocol]["ready"] == [True] * 3
        assert seen[protocol]["whole"] == seen[protocol]["one"] == [[3.0, 5.0], [7.0, 9.0]]
        assert seen[protocol]["text"] == ["Grüße", "b"]
        assert seen[protocol]["absent"][0] == status
        assert "'absent' is unknown" in seen[protocol]["absent"][1]
        assert seen[protocol]["gone"] is False
    assert seen["forms"] == {form: [[3.0, 5.0]] for form in ("gzip", "deflate", "None")}
