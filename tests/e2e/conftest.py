"""The cluster that `make up` brought up, and a steady light load on what it serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow import site as sites
from flow.errors import FlowError
from tests.programs import require
from trainer import digits

REQUESTS_PER_SECOND = 10


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def site() -> sites.Site:
    try:
        return sites.one_machine()
    except FlowError as error:
        pytest.fail(str(error))


@dataclass
class Load:
    """What a steady load met; filled in when it ends."""

    host: str
    requests: int = 0
    status_codes: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that were not answered by 200."""
        return self.requests - self.status_codes.get("200", 0)


class SteadyLoad:
    """Ten digits a second to each environment's gateway, until it is stopped."""

    def __init__(self, folder: Path, *environments: str) -> None:
        self._vegeta = require("vegeta")
        _, held_out = digits.split()
        body = folder / "digit.png"
        body.write_bytes(digits.png(held_out.pixels[0]))
        self._running: list[tuple[subprocess.Popen[bytes], Path, Load]] = []
        for environment in environments:
            host = f"{environment}.slipway.localhost"
            target = folder / f"{environment}.targets"
            target.write_text(
                f"POST {sites.GATEWAY}/v1/predict/digits\nHost: {host}\n"
                f"Content-Type: image/png\n@{body}\n"
            )
            results = folder / f"{environment}.results"
            process = subprocess.Popen(
                [
                    *(self._vegeta, "attack", f"-targets={target}"),
                    *(f"-rate={REQUESTS_PER_SECOND}", "-duration=15m", "-timeout=10s"),
                    f"-output={results}",
                ]
            )
            self._running.append((process, results, Load(host)))

    def stop(self) -> list[Load]:
        """End the load, let what is under way finish, and tell what it met."""
        for process, _, _ in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process, results, load in self._running:
            process.wait(timeout=30)
            report = json.loads(
                subprocess.run(
                    [self._vegeta, "report", "-type=json", str(results)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            load.requests = report["requests"]
            load.status_codes = report["status_codes"]
            load.errors = report["errors"]
        return [load for _, _, load in self._running]


@dataclass(frozen=True)
class Release:
    """The `release` command on the cluster's manifest repo, as people run it."""

    site: sites.Site

    def __call__(self, *arguments: str, accepted: tuple[int, ...] = (0,)) -> str:
        """Standard output and error together; the exit code must be one of ``accepted``."""
        done = subprocess.run(
            ["release", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={
                **os.environ,
                "MANIFEST_REPO": str(self.site.manifest_repo),
                "KUBECONFIG": str(self.site.kubectl.kubeconfig),
                "COLUMNS": "250",
            },
        )
        assert done.returncode in accepted, (
            f"release {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}"
        )
        return done.stdout


@pytest.fixture(scope="session")
def release(site: sites.Site) -> Release:
    return Release(site)


def wait_until(condition: Callable[[], Any], what: str, *, timeout: float = 60.0) -> Any:
    """The first true value of ``condition``; a failure that names ``what`` after ``timeout``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout:.0f} s"
        time.sleep(0.2)
    return value


def about(environment: str) -> dict[str, Any]:
    """What the proxy behind an environment's gateway says of itself; empty while it does not."""
    try:
        answer = httpx.get(
            f"{sites.GATEWAY}/v1/about",
            headers={"Host": f"{environment}.slipway.localhost"},
            timeout=5,
        )
    except httpx.HTTPError:
        return {}
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def predict(environment: str, *, row: int = 0) -> httpx.Response:
    """The answer to one held-out digit."""
    _, held_out = digits.split()
    return httpx.post(
        f"{sites.GATEWAY}/v1/predict/digits",
        headers={"Host": f"{environment}.slipway.localhost", "Content-Type": "image/png"},
        content=digits.png(held_out.pixels[row]),
        timeout=10,
    )


def digest(site: sites.Site, environment: str, name: str) -> str:
    """The digest that the values of an environment name."""
    done = subprocess.run(
        [
            *("git", "-C", str(site.manifest_repo), "show"),
            f"main:values/{environment}/{name}.image.yaml",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    line = next(text for text in done.stdout.splitlines() if text.strip().startswith("digest:"))
    return line.partition(":")[2].strip().strip('"')


def running_digests(site: sites.Site, environment: str, component: str) -> set[str]:
    """The digests that an environment's running pods of a release were started from."""
    pods = site.kubectl.items(
        "pods", "-n", environment, "-l", f"app.kubernetes.io/instance={component}"
    )
    found = set()
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") != "Running":
            continue
        for container in pod["spec"]["containers"]:
            if container["name"] == component:
                found.add(container["image"].rpartition("@")[2])
    return found
