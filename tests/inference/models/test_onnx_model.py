"""inference.models.onnx_model: what loading ONNX Runtime brings along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from inference.models.onnx_model import OnnxModel
from tests.inference import small_models

LOAD = """
import sys
from pathlib import Path
from inference.models.onnx_model import OnnxModel
OnnxModel(Path(sys.argv[1]), threads=1)
"""


def load(model: Path, home: Path, **environment: str) -> str:
    """What a process that loads a model says on stderr."""
    # Nothing else of this process's: ONNX Runtime reports from no machine that says it is a CI's.
    given = {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(model)], capture_output=True, text=True, check=True,
        env={**given, **environment},
    )  # fmt: skip
    return done.stderr


def test_threads_that_wait_do_not_spin(repository: Path) -> None:
    """ONNX Runtime spins unless it is told not to."""
    folder = small_models.put(repository, "affine", "1", small_models.affine())
    model = OnnxModel(folder / "model.onnx", threads=2)
    options = model._session.get_session_options()
    assert options.intra_op_num_threads == 2
    for kind in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{kind}.allow_spinning") == "0"


def test_onnx_runtime_reports_to_nobody(repository: Path) -> None:
    """It complains of a home it cannot write an identifier to as soon as it wants to report."""
    folder = small_models.put(repository, "affine", "1", small_models.affine())
    nowhere = Path("/proc/nowhere")
    assert "telemetry" not in load(folder / "model.onnx", nowhere).lower()
    asked = load(folder / "model.onnx", nowhere, ORT_DISABLE_TELEMETRY="0")
    assert "telemetry" in asked.lower(), "it no longer says so: look for another sign"
