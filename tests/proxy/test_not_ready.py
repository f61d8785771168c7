"""A proxy or worker that cannot work, or waits, says why in its log, its probe and its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, ConnectionError

from kit.lifecycle.health import READY_WITHOUT
from proxy.store.redis import unreachable
from tests.pods import NOBODY, entries, pod, run_to_its_end
from tests.waits import until


def test_a_worker_without_its_redis_waits_and_says_why(tmp_path: Path) -> None:
    """Found: no line in the log before the first contact, and then a dozen each second."""
    url = f"redis://:pass-word@{NOBODY}/0"
    with pod(tmp_path, "proxy", "worker", PROXY_REDIS_URL=url) as worker:
        line = until(worker.not_ready_lines, "the line")[0]
        assert line["waiting_for"] == "redis"
        assert line["reason"].startswith(f"Redis at {NOBODY} does not answer: ")
        assert "PROXY_REDIS_URL" in line["fix"]
        status, body = worker.readiness()
        assert (status, body["redis"]) == (503, f"{line['reason']}; {line['fix']}")
        assert "pass-word" not in worker.log_file.read_text()


def test_credentials_that_redis_refuses_are_no_redis_that_is_down() -> None:
    reason, fix = unreachable("rediss://u:secret@r.example/0", AuthenticationError("WRONGPASS"))
    assert reason == "Redis at r.example:6379 refuses the credentials: WRONGPASS"
    assert "user and password" in fix
    reason, fix = unreachable("redis://r:7/0", ConnectionError("refused"))
    assert reason == "Redis at r:7 does not answer: refused"
    assert "user" not in fix


def test_a_proxy_without_its_redis_predicts_and_says_so_once(tmp_path: Path) -> None:
    """Limits, cache and jobs do without it, so the pod is ready; the log tells of it."""
    url = f"redis://:pass-word@{NOBODY}/0"
    with pod(tmp_path, "proxy", "serve", PROXY_REDIS_URL=url) as proxy:
        until(lambda: proxy.readiness()[0] == 200, "the proxy")

        def said() -> list[dict[str, Any]]:
            return [e for e in entries(proxy.log_file) if e["message"] == READY_WITHOUT]

        line = until(said, "the line")[0]
        assert line["reason"].startswith(f"Redis at {NOBODY} does not answer: ")
        assert "PROXY_REDIS_URL" in line["fix"]
        assert line["missing"] == "redis"
        status, body = proxy.readiness()
        assert (status, body["redis"]) == (200, f"{line['reason']}; {line['fix']}")
        assert "pass-word" not in proxy.log_file.read_text()


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_authorities_that_cannot_be_read_end_it(command: str, tmp_path: Path) -> None:
    """Found: the worker served on with "redis: not reached yet" and never said why."""
    authorities = tmp_path / "ca.pem"
    authorities.write_text("no certificate")
    ended = run_to_its_end(
        tmp_path, "proxy", command,
        PROXY_CA_FILE=str(authorities), PROXY_REDIS_URL=f"redis://{NOBODY}/0",
    )  # fmt: skip
    assert ended.code == 2, ended.log
    assert str(authorities) in ended.message.text
    assert "cannot work" in ended.log


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PROXY_CA_FILE": "/nowhere/ca.pem"}, "PROXY_CA_FILE: "),
        ({"PROXY_REDIS_URL": "redis.example"}, "PROXY_REDIS_URL: "),
        ({"PROXY_REDIS_URL": "redis://r:port/0"}, "PROXY_REDIS_URL: "),
        ({"PROXY_BACKENDS": "{"}, "PROXY_BACKENDS: is not JSON"),
        ({"PROXY_BACKENDS": '{"d": {"type": "http", "url": "inference"}}'}, "PROXY_BACKENDS.d."),
    ],
)
def test_a_setting_that_can_never_be_right_ends_it(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    ended = run_to_its_end(tmp_path, "proxy", "serve", **settings)
    assert ended.code == 2, ended.log
    assert ended.message.text.startswith(said)
    assert "settings" in ended.message.fix
    assert "Traceback" not in ended.log
