"""A real MLflow without a server: SQLite, and files beside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import mlflow.sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


@contextmanager
def of(address: str, artifacts: Path) -> Iterator[None]:
    """Have this process log into the store at ``address``, which is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.set_tracking_uri(address)
        mlflow.create_experiment("tests", artifact_location=str(artifacts))
        mlflow.set_experiment("tests")
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)


def logged(model: Any, name: str, example: Any = None, **more: Any) -> str:
    """Log and register a scikit-learn model; the run's id."""
    with mlflow.start_run() as run:
        mlflow.sklearn.log_model(
            model, name="model", registered_model_name=name, input_example=example,
            **{"serialization_format": "cloudpickle", **more},
        )  # fmt: skip
    return str(run.info.run_id)


def log_iris(name: str, *, times: int, alias: str) -> None:
    """Register a classifier so often, and give the newest version an alias."""
    rows, classes = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows, classes)
    for _ in range(times):
        logged(model, name, rows[:3])
    mlflow.MlflowClient().set_registered_model_alias(name, alias, str(times))
