"""`flow environment`: what a person's shell needs to reach the one machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flow import cli
from flow.site import Site


def test_a_shell_takes_what_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(
        kubectl=SimpleNamespace(kubeconfig=Path("/tmp/a kubeconfig")),  # type: ignore[arg-type]
        registry="", base_image="", build_volumes=(), manifest_repo="/tmp/it's a repo.git",
        repo_url="", s3_url="http://127.0.0.1:1",
        credentials={"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a$b"},
    )  # fmt: skip
    monkeypatch.setattr(cli, "_site", lambda: site)
    printed = CliRunner().invoke(cli.app, ["environment"])
    assert printed.exit_code == 0, printed.output
    names = ("AWS_ENDPOINT_URL_S3", "AWS_SECRET_ACCESS_KEY", "MANIFEST_REPO", "KUBECONFIG")
    asked = 'printf "%s|" ' + " ".join(f'"${name}"' for name in names)
    shell = subprocess.run(
        ["sh", "-c", f"{printed.output}\n{asked}"], capture_output=True, text=True, check=True
    )
    assert shell.stdout == "http://127.0.0.1:1|a$b|/tmp/it's a repo.git|/tmp/a kubeconfig|"
