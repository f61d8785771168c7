"""inference.cli: what the command prints and how it ends, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.settings import InferenceSettings
from kit.settings import reference
from tests.inference import small_models

ROOT = Path(__file__).parents[2]


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference.cli", *arguments],
        env={**os.environ, "INFERENCE_MODEL_REPOSITORY": str(repository)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_check_says_what_is_wrong_and_ends_with_1(repository: Path) -> None:
    small_models.put(repository, "good", "1", small_models.affine())
    good = run(repository, "check")
    assert good.returncode == 0
    ready, batched = good.stdout.splitlines()
    assert ready == "good 1: READY"
    assert batched.startswith("  batched: the graph keeps its rows apart")
    small_models.put(repository, "bad", "2", b"no model")
    bad = run(repository, "check", "--json")
    assert bad.returncode == 1
    rows = {row["name"]: row for row in json.loads(bad.stdout.splitlines()[-1])}
    assert rows["good"]["state"] == "READY"
    assert rows["bad"]["state"] == "UNAVAILABLE"
    assert "cannot load" in rows["bad"]["reason"]


def test_check_of_an_empty_repository_ends_with_1(repository: Path) -> None:
    done = run(repository, "check")
    assert done.returncode == 1
    assert "no model in" in done.stderr


@pytest.mark.parametrize("suffix", ["md", "json"])
def test_the_settings_reference_is_the_codes(suffix: str) -> None:
    written = (ROOT / f"docs/reference/settings-inference.{suffix}").read_text()
    generated = reference(InferenceSettings, title="inference", as_json=suffix == "json")
    assert written == generated, "run `make reference`"
