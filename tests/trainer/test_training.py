"""trainer.training: what is exported is what was trained, and what is measured is the export."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kit.transforms import Preparation
from tests.trained import REVISION, files_of, trained_digits
from trainer import digits, drawing, training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> training.Trained:
    return training.Trained(*files_of(trained_digits(tmp_path_factory)))


def test_the_export_is_good_on_what_it_never_saw(trained: training.Trained) -> None:
    _, held_out = digits.split()
    label, probabilities = training.predict(trained.onnx, held_out.pixels)
    accuracy = float((label == held_out.labels).mean())
    assert accuracy > 0.95
    assert trained.manifest["metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_pictures_that_people_send_are_answered_right(trained: training.Trained) -> None:
    """Dark on white and light on dark, any margin, size and stroke, from papers and photographs."""
    _, held_out = digits.split()
    chance = np.random.default_rng(7)
    prepare = Preparation(digits.PREPROCESS)
    rows = [prepare(drawing.from_pixels(row, drawing.random_style(chance, largest=320)))
            for row in held_out.pixels[:200]]  # fmt: skip
    labels = np.arange(100) % 10
    rows += [prepare(drawing.from_strokes(int(label), training.small_style(chance), chance))
             for label in labels]  # fmt: skip
    seen, _ = training.predict(trained.onnx, np.stack(rows))
    right = seen == np.concatenate([held_out.labels[:200], labels])
    assert right[:200].mean() >= 0.9
    assert right[200:].mean() >= 0.95
    assert trained.manifest["metrics"]["accuracy_drawn"] >= 0.9


def test_a_batch_gives_what_its_rows_give_alone(trained: training.Trained) -> None:
    _, held_out = digits.split()
    together, _ = training.predict(trained.onnx, held_out.pixels[:20])
    alone = [training.predict(trained.onnx, row[None])[0][0] for row in held_out.pixels[:20]]
    assert together.tolist() == alone


def test_the_manifest_describes_the_file(trained: training.Trained, tmp_path: Path) -> None:
    trained.write(tmp_path)
    manifest = trained.manifest
    assert hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest() == manifest["sha256"]
    assert manifest["labels"] == [str(digit) for digit in range(10)]
    assert manifest["source_revision"] == REVISION
    assert len(manifest["run_id"]) == 32
    assert sum(map(sum, manifest["metrics"]["confusion"])) == 360


def test_evaluation_of_a_perfect_and_of_a_wrong_answer() -> None:
    truth = np.arange(10)
    perfect = training.evaluate(truth, truth, np.eye(10, dtype=np.float32))
    assert perfect["accuracy"] == perfect["macro_f1"] == 1.0
    wrong = training.evaluate(truth, (truth + 1) % 10, np.full((10, 10), 0.1, np.float32))
    assert wrong["accuracy"] == 0.0
    assert wrong["log_loss"] == pytest.approx(np.log(10), abs=1e-5)


def test_onnx_runtime_is_told_to_report_to_nobody() -> None:
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import trainer.training, os; print(os.environ['ORT_DISABLE_TELEMETRY'])",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=kept,
    ).stdout
    assert said.strip() == "1"
