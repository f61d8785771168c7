"""A model of an MLflow registry or run as a folder with an ONNX file.

Source: MLflow 3, "Models" (the MLmodel file) and "Model Registry" (``models:/`` URIs).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.mlflow_models import sklearn_models
from trainer.mlflow_models.errors import MlflowModelError

_URI = re.compile(r"models:/[^/@]+(?:/[^/@]+|@[^/@]+)?|runs:/[^/]+/.+")
_OF_MLFLOW = frozenset(
    {
        "MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json",
        "serving_input_example.json", "registered_model_meta",
    }
)  # fmt: skip
"""Files that MLflow lays beside a model."""

CONVERTED_BY = {
    "pytorch": "`torch.onnx.export(model, inputs, 'model.onnx', dynamo=True)`",
    "tensorflow": "`python -m tf2onnx.convert --saved-model FOLDER --output model.onnx`",
    "keras": "`model.export('model.onnx', format='onnx')`",
    "xgboost": "`onnxmltools.convert_xgboost(model, initial_types=...)`",
    "lightgbm": "`onnxmltools.convert_lightgbm(model, initial_types=...)`",
    "catboost": "`model.save_model('model.onnx', format='onnx')`",
    "transformers": "`optimum-cli export onnx --model FOLDER OUT`",
    "sentence_transformers": "`optimum-cli export onnx --model FOLDER OUT`",
    "spark": "`onnxmltools.convert_sparkml(model, ...)`",
}
"""How other flavours become ONNX, by the flavour's name in MLmodel."""


@dataclass(frozen=True)
class Downloaded:
    """A model as ONNX in ``folder``; ``version`` is "" where the URI names no registered one."""

    folder: Path
    flavor: str
    version: str = ""
    run: str = ""
    notes: list[str] = field(default_factory=list)
    """What was guessed or compared, in sentences."""


def download(uri: str, to: Path) -> Downloaded:
    """Write the ONNX file of ``models:/name/version``, ``models:/name@alias`` or ``runs:/id/path``.

    The server is MLFLOW_TRACKING_URI's, else ``sqlite:///mlflow.db`` of this folder. A
    scikit-learn model is converted; its pickle runs code of whoever logged it.

    Raises MlflowModelError for a URI that is none, a model that is not there, and a flavour that
    is not converted here, with the command that converts it.
    """
    if not _URI.fullmatch(uri):
        raise MlflowModelError(
            f"{uri!r} names no model of MLflow: write models:/NAME/VERSION, models:/NAME@ALIAS or "
            "runs:/RUN/PATH"
        )
    with tempfile.TemporaryDirectory(prefix="mlflow-model-") as scratch:
        version, source = _files(uri, Path(scratch))
        manifest = _manifest(uri, source)
        flavors = manifest["flavors"]
        to.mkdir(parents=True, exist_ok=True)
        notes: list[str] = []
        if "onnx" in flavors:
            flavor = "onnx"
            _copy_onnx(uri, source, flavors["onnx"], to)
        elif "sklearn" in flavors:
            flavor = "sklearn"
            notes = sklearn_models.convert(source, manifest, to / "model.onnx")
        else:
            raise MlflowModelError(_not_converted(uri, flavors))
        return Downloaded(to, flavor, version, str(manifest.get("run_id") or ""), notes)


def _files(uri: str, scratch: Path) -> tuple[str, Path]:
    """The registered version of a URI, and the folder that its files were loaded into."""
    try:
        import mlflow  # noqa: PLC0415 - seconds of import, and an extra of this package
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
    except ImportError as error:
        raise MlflowModelError(
            f"MLflow's client is not installed ({error.name}): install slipway-trainer[mlflow]"
        ) from None
    server = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if server.startswith("sqlite:///") and not Path(server.removeprefix("sqlite:///")).is_file():
        raise MlflowModelError(
            f"there is no MLflow at {server}: set MLFLOW_TRACKING_URI to the server's address"
        )
    mlflow.set_tracking_uri(server)
    try:
        version = _version(mlflow.MlflowClient(), uri)
        with contextlib.redirect_stdout(None):
            folder = mlflow.artifacts.download_artifacts(uri, dst_path=str(scratch / "model"))
    except MlflowException as error:
        raise MlflowModelError(f"{uri} at {server}: {error.message}") from error
    except OSError as error:
        raise MlflowModelError(f"{uri} at {server} cannot be read: {error}") from error
    return version, Path(folder)


def _version(client: Any, uri: str) -> str:
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if uri.startswith("runs:/") or ("/" not in name and not at):
        return ""
    if at:
        return str(client.get_model_version_by_alias(name, alias).version)
    name, _, version = name.partition("/")
    if version != "latest":
        return version
    newest = client.search_model_versions(
        f"name='{name}'", max_results=1, order_by=["version_number DESC"]
    )
    return str(newest[0].version) if newest else ""


def _manifest(uri: str, folder: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((folder / "MLmodel").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MlflowModelError(f"{uri} is no logged model: its MLmodel: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("flavors"), dict):
        raise MlflowModelError(f"{uri} is no logged model: its MLmodel names no flavors")
    return found


def _copy_onnx(uri: str, source: Path, flavor: Mapping[str, Any], to: Path) -> None:
    """The ONNX file as model.onnx, and the files beside it that hold its weights."""
    data = source / str(flavor.get("data", "model.onnx"))
    if source.resolve() not in data.resolve().parents or not data.is_file():
        raise MlflowModelError(f"{uri}: MLmodel names {flavor.get('data')!r}, which is not there")
    for file in data.parent.iterdir():
        if file != data and file.is_file() and file.name not in _OF_MLFLOW:
            shutil.copyfile(file, to / file.name)
    shutil.copyfile(data, to / "model.onnx")


def _not_converted(uri: str, flavors: Mapping[str, Any]) -> str:
    named = sorted(set(flavors) - {"python_function"}) or ["python_function"]
    ways = [CONVERTED_BY[name] for name in named if name in CONVERTED_BY]
    advice = ways[0] if ways else "export it to ONNX with the framework's own exporter"
    return (
        f"{uri} is of the flavour {', '.join(named)}, and only onnx and sklearn are read: convert "
        f"it with {advice}, then name the file"
    )
