"""Commands of the docs that ask a model server of this machine, run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.documented import ROOT, Block, blocks
from tests.ports import free_port
from tests.trained import trained_digits

BLOCKS = [one for one in blocks() if one.how and one.how.get("with") == "inference"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shipped model on a server of its own."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "digits").mkdir()
    (folder / "digits/1").symlink_to(trained_digits(tmp_path_factory))
    port = free_port()
    environment = {
        **os.environ,
        "INFERENCE_HOST": "127.0.0.1",
        "INFERENCE_PORT": str(port),
        "INFERENCE_GRPC_PORT": str(free_port()),
        "INFERENCE_MODEL_REPOSITORY": str(folder),
    }
    server = subprocess.Popen(["inference", "serve"], env=environment)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
            while client.get(f"http://127.0.0.1:{port}/readyz").status_code != 200:
                assert server.poll() is None
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda one: one.identity)
def test_documented_command_works(block: Block, address: str) -> None:
    """The address alone is another: no test can promise to find port 8080 free."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text.replace("localhost:8080", address)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert block.how is not None
    assert re.search(block.how["expect"], done.stdout), done.stdout
