"""A real S3 server (versitygw) for tests, on a free port, over a folder."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from tests.programs import require
from tests.waits import SECONDS, until

ACCESS_KEY = "slipway"
SECRET_KEY = "slipway-secret"
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it listens and the folder whose subfolders are its buckets."""

    url: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """The AWS SDKs' own variables for it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }


@contextmanager
def serve_s3(
    folder: Path, buckets: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[S3Server]:
    """Run the server over ``folder/data`` until the block is left."""
    program = require("versitygw")
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for bucket in buckets:
        (data / bucket).mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = folder / "versitygw.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                program,
                *("--port", f"127.0.0.1:{port}", "--access", ACCESS_KEY, "--secret", SECRET_KEY),
                *("--region", REGION, "--quiet", "--keep-alive", "--health", "/health"),
                *options,
                *("posix", str(data)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_up(server, url, log)
            yield S3Server(url, data)
        finally:
            # It waits for kept-alive connections to end; the data are thrown away in any case.
            server.kill()
            server.wait(timeout=SECONDS)


def _wait_until_up(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    def answers() -> bool:
        assert server.poll() is None, f"versitygw ended: {log.read_text(errors='replace')[-500:]}"
        try:
            with urllib.request.urlopen(url + "/health", timeout=SECONDS):
                return True
        except (urllib.error.URLError, OSError):
            return False

    until(answers, "versitygw")
