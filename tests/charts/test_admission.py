"""A real API server admits everything that is shipped, under Pod Security `restricted`."""

from __future__ import annotations

import pytest

from tests.charts.admission import ApiServer
from tests.charts.rendering import ENVIRONMENTS, namespace, releases, render


def everything(environment: str) -> str:
    rendered = [render(release) for release in releases(environment)]
    return "\n---\n".join([namespace(environment), *rendered])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everything_is_admitted(server: ApiServer, environment: str) -> None:
    text = everything(environment)
    assert server.admit(text) == ""
    enforced = server.kubectl(
        *("get", "namespace", environment, "--output"),
        r"jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}",
    )
    assert enforced.stdout == "restricted"


def test_a_pod_that_may_run_as_root_is_refused(server: ApiServer) -> None:
    text = everything("dev")
    refused = server.admit(text.replace("runAsNonRoot: true", "runAsNonRoot: false"))
    assert 'violates PodSecurity "restricted:latest": runAsNonRoot != true' in refused
