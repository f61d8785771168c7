"""What the environments' values tell the proxy and its worker: both must mean the same jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flow.site import ENVIRONMENTS
from flow.stages import jobs_bucket
from proxy.settings import ProxySettings
from release.render import merged_values
from release.render.helm import releases

VALUES = Path(__file__).parents[2] / "values"


def environment(name: str, release: str) -> dict[str, str]:
    """The variables of a release, as the chart merges them."""
    [row] = [one for one in releases(VALUES.parent, name) if one.name == release]
    return merged_values.environment(merged_values.of_files(VALUES.parent, row))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_proxy_and_worker_share_redis_models_and_the_bucket_of_large_jobs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    for release in ("proxy", "worker"):
        with monkeypatch.context() as context:
            for key, value in environment(name, release).items():
                context.setenv(key, value)
            read.append(ProxySettings())
    proxy, worker = read
    assert proxy.redis_url == worker.redis_url
    assert proxy.jobs == worker.jobs
    assert proxy.jobs.bucket == jobs_bucket(name)
    assert json.loads(proxy.model_dump_json())["backends"] == json.loads(
        worker.model_dump_json()
    )["backends"]  # fmt: skip


def test_no_two_environments_share_their_jobs() -> None:
    urls = {environment(name, "worker")["PROXY_REDIS_URL"] for name in ENVIRONMENTS}
    assert len(urls) == len(ENVIRONMENTS) == len({jobs_bucket(name) for name in ENVIRONMENTS})
