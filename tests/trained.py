"""The digits model, trained by the `trainer` command once for all workers of a run."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.publishing import MANIFEST_FILE, MODEL_FILE

REVISION = "abc"
"""The revision of the source that its manifest names."""


def trained_digits(temporary: pytest.TempPathFactory) -> Path:
    """The folder with the model, its manifest and `said.json`, which the command printed.

    Nobody may change what is in it.
    """
    base = temporary.getbasetemp()
    # The workers of one run have folders below one folder of that run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "trained-digits"
    with (shared / "trained-digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "said.json").exists():
            program = Path(sys.executable).with_name("trainer")
            done = subprocess.run(
                [str(program), "train", "--to", str(folder), "--hidden", "32", "--json"],
                env=os.environ | {"SOURCE_REVISION": REVISION},
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            (folder / "said.json").write_text(done.stdout)
    return folder


def files_of(folder: Path) -> tuple[bytes, dict[str, object]]:
    """The model's bytes and its manifest."""
    manifest: dict[str, object] = json.loads((folder / MANIFEST_FILE).read_text())
    return (folder / MODEL_FILE).read_bytes(), manifest
