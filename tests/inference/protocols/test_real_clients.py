"""Clients that others wrote work unchanged: Triton's, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.conformance import write_section
from tests.inference import small_models
from tests.inference.conftest import Serve
from tests.programs import require

CLIENT = "tritonclient[grpc,http]==2.73.0"
KSERVE = "kserve==0.21.0"
REFUSED = [
    "shared memory is not served here, send",
    "shared memory is not served here, the tensor comes",
    "sequences are not served here",
    "parameters.config is not served here",
    "parameters.config is not served here",
    "system shared memory is not served here",
    "CUDA shared memory is not served here",
    "system shared memory is not served here",
    "trace settings are not served here",
    "trace settings are not served here",
    "log settings are not served here",
    "log settings are not served here",
]


CLIENTS = f"""
Run against the real server, each in an environment of its own (tests/inference/protocols/test_real_clients.py).

| client | right | refused by name |
|---|---|---|
| `{CLIENT}`, its HTTP, gRPC and asyncio clients | health, metadata, config, statistics, index, load, unload, infer in JSON and binary, gzip, deflate, BYTES, classification | shared memory, streaming, sequences, trace and log settings, load with a configuration or files |
| `{KSERVE}`, REST with V1 and V2, and gRPC | health, readiness, predict, infer in JSON and binary, BYTES | a model that is not there |
"""  # noqa: E501


async def run(*command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def python_with(package: str, imports: str) -> list[str]:
    """The command of a Python with that package; the test is skipped where it does not install."""
    uv = require("uv")
    python = [uv, "run", "--quiet", "--isolated", "--no-project", "--python", "3.11",
              "--with", package, "python"]  # fmt: skip
    code, _, why = await run(*python, "-c", f"import {imports}")
    if code != 0 and not os.environ.get("CI"):
        pytest.skip(f"{package} does not install: {why[-200:]}")
    return python


async def test_tritons_clients_work_unchanged(serve: Serve, repository: Path) -> None:
    python = await python_with(CLIENT, "tritonclient.grpc, tritonclient.http")
    small_models.put(repository, "affine", "1", small_models.affine(), labels=["a", "b"])
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
        assert seen[protocol]["classes"] == ["5.0:1:b", "9.0:1:b"]
        assert seen[protocol]["config"] == ["affine", 64, "TYPE_FP32"]
        refused = zip(REFUSED, seen[protocol]["refused"], strict=True)
        assert all(words in said for words, said in refused), seen[protocol]["refused"]
    assert seen["aio"] == [[[3.0, 5.0]] * 16] * 2
    assert "streaming is not served here" in seen["stream"]
    assert seen["forms"] == {form: [[3.0, 5.0]] for form in ("gzip", "deflate", "None")}


@pytest.mark.conformance
async def test_kserves_clients_work_unchanged(serve: Serve, repository: Path) -> None:
    """Of 300 MiB with what it needs, so not in every run of the tests."""
    python = await python_with(KSERVE, "kserve")
    small_models.put(repository, "affine", "1", small_models.affine())
    small_models.put(repository, "bytes", "1", small_models.identity("BYTES"))
    script = str(Path(__file__).with_name("kserve_client.py"))
    async with serve() as running:
        addresses = (f"http://127.0.0.1:{running.port}", f"127.0.0.1:{running.grpc_port}")
        code, out, err = await run(*python, script, *addresses)
    assert code == 0, err
    seen = json.loads(out.splitlines()[-1])
    for protocol in ("v1", "v2", "grpc"):
        assert seen[protocol]["ready"] == [True] * len(seen[protocol]["ready"])
    assert seen["v1"]["predictions"] == [[3.0, 5.0], [7.0, 9.0]]
    for protocol in ("v2", "grpc"):
        assert seen[protocol]["json"] == seen[protocol]["binary"] == [[3.0, 5.0], [7.0, 9.0]]
        assert seen[protocol]["text"] == [["Grüße", "b"]]
        assert "'absent' is unknown" in seen[protocol]["absent"]
    write_section("Clients of the model server", CLIENTS)
