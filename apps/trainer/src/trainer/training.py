"""Trains a classifier on the digits, evaluates it, and converts it to ONNX."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss  # type: ignore[import-untyped]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
from sklearn.pipeline import Pipeline, make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from kit.transforms import Preparation
from trainer import digits, drawing
from trainer.publishing import MANIFEST_FILE, MODEL_FILE

OPSET = 21
STROKE_DIGITS = 600
LARGEST_DRAWN = 160

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """An ONNX file's bytes and the ``model.json`` that belongs to it."""

    onnx: bytes
    manifest: Manifest

    def write(self, folder: Path) -> None:
        """``folder/model.onnx`` and ``folder/model.json``, the latter last."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.onnx)
        (folder / MANIFEST_FILE).write_text(dump_manifest(self.manifest), encoding="utf-8")


def train(
    *,
    name: str = "digits",
    version: str = "1",
    hidden: int = 64,
    seed: int = 0,
    source_revision: str = "",
) -> Trained:
    """Fit on the training part, export, and score the exported file on the held-out part.

    The metrics are those of the ONNX file run by ONNX Runtime: what will serve is what is
    measured.
    """
    training, held_out = digits.split()
    rows, labels = augmented(training, seed)
    pipeline = make_pipeline(
        StandardScaler(),
        MLPClassifier(
            hidden_layer_sizes=(hidden,), alpha=1e-3, max_iter=500, tol=1e-3, random_state=seed
        ),
    )
    pipeline.fit(rows, labels)
    onnx_bytes = export(pipeline, training.pixels[:1])
    label, probabilities = predict(onnx_bytes, held_out.pixels)
    metrics = evaluate(held_out.labels, label, probabilities)
    drawn = drawn_like_peoples(held_out, np.random.default_rng(seed + 1))
    seen, _ = predict(onnx_bytes, drawn.pixels)
    metrics["accuracy_drawn"] = round(float(accuracy_score(drawn.labels, seen)), 6)
    return Trained(
        onnx_bytes,
        {
            "name": name,
            "version": version,
            "format": "onnx",
            "sha256": hashlib.sha256(onnx_bytes).hexdigest(),
            "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            ],
            "labels": digits.LABELS,
            "preprocess": digits.PREPROCESS,
            "postprocess": [
                {
                    "transform": "label_lookup",
                    "input": "probabilities",
                    "output": "class",
                    "score_output": "score",
                }
            ],
            "batching": {"max_batch_size": 256},
            "metrics": metrics,
            "training": {
                "data": "scikit-learn load_digits",
                "train_rows": len(training),
                "train_pictures": len(rows) - len(training),
                "heldout_rows": len(held_out),
                "hidden": hidden,
                "seed": seed,
            },
            "run_id": uuid.uuid4().hex,
            "source_revision": source_revision,
        },
    )


def augmented(training: digits.Digits, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows [n, 64] and labels [n]: the data as they are, and drawn and made ready again.

    Programs send rows, people pictures; the model is to know both.
    """
    chance = np.random.default_rng(seed)
    prepare = Preparation(digits.PREPROCESS)
    plain = np.stack([prepare(digits.png(row, 8)) for row in training.pixels[::2]])
    drawn = drawn_like_peoples(training, chance)
    labels = np.arange(STROKE_DIGITS, dtype=np.int64) % len(digits.LABELS)
    strokes = [
        prepare(drawing.from_strokes(int(label), small_style(chance), chance)) for label in labels
    ]
    return (
        np.concatenate([training.pixels, plain, drawn.pixels, strokes]),
        np.concatenate([training.labels, training.labels[::2], drawn.labels, labels]),
    )


def drawn_like_peoples(rows: digits.Digits, chance: np.random.Generator) -> digits.Digits:
    """Each of the digits drawn in some style, and what the model's transforms make of it."""
    prepare = Preparation(digits.PREPROCESS)
    drawn = [prepare(drawing.from_pixels(row, small_style(chance))) for row in rows.pixels]
    return digits.Digits(np.stack(drawn), rows.labels)


def small_style(chance: np.random.Generator) -> drawing.Style:
    """Any style, in pictures small enough to draw thousands of them."""
    return drawing.random_style(chance, largest=LARGEST_DRAWN)


def export(pipeline: Pipeline, sample: NDArray[np.float32]) -> bytes:
    """The pipeline as ONNX: ``pixels`` [n, 64] in, ``label`` [n] and ``probabilities`` [n, 10]."""
    model = to_onnx(
        pipeline,
        sample,
        target_opset=OPSET,
        options={"zipmap": False},
        initial_types=None,
    )
    names = {
        model.graph.input[0].name: "pixels",
        model.graph.output[0].name: "label",
        model.graph.output[1].name: "probabilities",
    }
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
        # one name for the rows of every tensor: it is what lets a server batch them
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    return bytes(model.SerializeToString(deterministic=True))


def predict(
    onnx_bytes: bytes, pixels: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels [n] and probabilities [n, 10] of ``pixels`` [n, 64]."""
    session = ort.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    label, probabilities = session.run(["label", "probabilities"], {"pixels": pixels})
    return label, probabilities


def evaluate(
    truth: NDArray[np.int64], label: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> dict[str, Any]:
    """Accuracy, macro F1, log loss (nats) and the confusion matrix [true][predicted]."""
    exact = probabilities.astype(
        np.float64
    )  # float32 sums are off by 1e-7, which log_loss warns of
    return {
        "accuracy": round(float(accuracy_score(truth, label)), 6),
        "macro_f1": round(float(f1_score(truth, label, average="macro")), 6),
        "log_loss": round(float(log_loss(truth, exact / exact.sum(axis=1, keepdims=True))), 6),
        "confusion": confusion_matrix(truth, label, labels=list(range(10))).tolist(),
    }


def dump_manifest(manifest: Mapping[str, Any]) -> str:
    """``model.json`` as people read it."""
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
