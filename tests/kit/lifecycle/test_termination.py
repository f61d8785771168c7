"""Why a process ends or waits stands where Kubernetes and people look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict
from structlog.testing import capture_logs

from kit.lifecycle import start, termination
from kit.lifecycle.health import AGAIN_SECONDS, Health
from kit.lifecycle.termination import CANNOT_WORK, Reason
from kit.settings import ServiceSettings


class Example(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    mode: Annotated[Literal["fast", "safe"], Field(description="How.")] = "safe"
    secret: Annotated[SecretStr, Field(min_length=30, description="A secret.")] = SecretStr(
        "x" * 30
    )
    url: Annotated[str, Field(pattern="^redis", description="May hold a password.")] = "redis://r"
    limits: Annotated[dict[str, int], Field(default_factory=dict, description="By name.")]


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the kubelet mounts."""
    file = tmp_path / "termination-log"
    file.touch()
    monkeypatch.setenv(termination.VARIABLE, str(file))
    return file


def test_what_is_written_is_read_back(message: Path) -> None:
    reason = Reason("S3 does not answer", "start it")
    termination.leave(reason)
    assert message.read_text() == "S3 does not answer\nfix: start it\n"
    assert termination.read(message.read_text()) == reason
    assert termination.read("Traceback (most recent call last)") == Reason(
        "Traceback (most recent call last)"
    )


def test_a_long_reason_is_cut_to_what_kubernetes_keeps(message: Path) -> None:
    termination.leave(Reason("모" * 5000))
    assert message.stat().st_size <= termination.LONGEST


def test_outside_a_container_no_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(termination.VARIABLE, str(tmp_path / "none"))
    termination.leave(Reason("anything"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("EXAMPLE_PORT", "often", "EXAMPLE_PORT: ", True),
        ("EXAMPLE_MODE", "quick", "EXAMPLE_MODE: ", True),
        ("EXAMPLE_SECRET", "hunter2", "EXAMPLE_SECRET: ", False),
        ("EXAMPLE_URL", "http://:hunter2@r", "EXAMPLE_URL: ", False),
        ("EXAMPLE_LIMITS", '{"a": "hunter2"}', "EXAMPLE_LIMITS.a: ", False),
        ("EXAMPLE_LIMITS", "{hunter2", "EXAMPLE_LIMITS: is not JSON", False),
    ],
)
def test_a_wrong_setting_ends_the_process_and_names_itself_but_no_secret(
    message: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[str, str, str, bool],
) -> None:
    name, value, said, shown = wrong
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        start.load(Example)
    assert ended.value.code == CANNOT_WORK
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert (f"got {value!r}" in printed) == shown
    assert "hunter2" not in printed
    assert termination.read(message.read_text()) == Reason(printed.split("\nfix")[0], start.FIX)


def test_every_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXAMPLE_PORT", "often")
    monkeypatch.setenv("EXAMPLE_MODE", "quick")
    with pytest.raises(SystemExit):
        start.load(Example)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["EXAMPLE_PORT", "EXAMPLE_MODE", "fix"]


def test_a_fault_is_logged_when_it_begins_when_it_changes_and_now_and_then() -> None:
    now = [0.0]
    health = Health(clock=lambda: now[0])
    with capture_logs() as logged:
        for _ in range(3):
            health.wait_for("redis", "Redis at r:6379 does not answer", "start it")
            assert health.readiness() == (
                503,
                {"status": "waiting", "redis": "Redis at r:6379 does not answer; start it"},
            )
        assert len(logged) == 1
        now[0] = AGAIN_SECONDS
        health.readiness()
        assert len(logged) == 2, "the end of a long log says it too"
        health.wait_for("redis", "Redis at r:6379 refuses the password", "correct it")
        assert logged[-1]["reason"] == "Redis at r:6379 refuses the password"
        health.ready("redis")
        assert logged[-1]["event"] == "no longer waiting"
    assert {entry["log_level"] for entry in logged[:-1]} == {"warning"}


def test_a_start_that_takes_its_time_is_no_fault() -> None:
    health = Health(clock=lambda: 1e9)
    with capture_logs() as logged:
        health.wait_for("models", "loading")
        health.readiness()
        health.ready("models")
    assert logged == []


def test_who_gives_up_says_so_everywhere_and_ends(message: Path) -> None:
    ended: list[bool] = []
    health = Health(on_give_up=lambda: ended.append(True))
    with capture_logs() as logged:
        health.give_up("models", "there is no model in /nowhere", "fetch one")
    assert ended == [True]
    assert health.exit_code == CANNOT_WORK
    assert health.readiness()[1]["models"] == "there is no model in /nowhere; fetch one"
    assert logged[0]["log_level"] == "error"
    assert termination.read(message.read_text()) == Reason(
        "there is no model in /nowhere", "fetch one"
    )


def test_what_a_ready_pod_lacks_is_said_and_leaves_it_ready() -> None:
    health = Health()
    with capture_logs() as logged:
        for _ in range(3):
            health.do_without("redis", "Redis at r:6379 does not answer", "start it")
        assert health.readiness() == (
            200,
            {"status": "ready", "redis": "Redis at r:6379 does not answer; start it"},
        )
        health.do_with("redis")
        health.do_with("redis")
        assert health.readiness() == (200, {"status": "ready"})
    assert [entry["event"] for entry in logged] == ["ready without", "no longer without"]
