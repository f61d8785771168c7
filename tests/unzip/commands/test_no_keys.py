"""Without keys for S3 every command says so in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from unzip.cli import app


@pytest.mark.parametrize("command", ["run", "status"])
def test_no_keys_are_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: both ended with a traceback, "Received None from session.get_credentials"."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    answer = CliRunner().invoke(app, [command])
    assert answer.exit_code == 2
    assert "no keys for S3: none were found. Set AWS_ACCESS_KEY_ID" in answer.stderr
    assert isinstance(answer.exception, SystemExit)


def test_half_a_key_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "only-this")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    answer = CliRunner().invoke(app, ["status"])
    assert answer.exit_code == 2
    assert "no keys for S3: Partial credentials" in answer.stderr
