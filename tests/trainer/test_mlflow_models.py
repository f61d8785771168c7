"""trainer.mlflow_models: models that a real MLflow holds become ONNX files, or are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.onnx
import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from mlflow.models import Model
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from typer.testing import CliRunner

from tests.trainer import mlflow_store
from tests.trainer.mlflow_store import logged
from trainer.cli import app
from trainer.mlflow_models.download import CONVERTED_BY, Downloaded, download
from trainer.mlflow_models.errors import MlflowModelError

# MLflow's own use of its libraries is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

X, Y = load_iris(return_X_y=True)
TABLE = pd.DataFrame(
    {
        "city": ["Seoul", "Busan", "Seoul", "Daegu"],
        "rooms": [1, 2, 3, 4],
        "area": [20.5, 40.0, 61.25, 80.0],
    }
)
PRICE = [1.0, 2.0, 3.5, 4.0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder / 'mlflow.db'}"
    with mlflow_store.of(address, folder / "artifacts"):
        mlflow.MlflowClient().create_registered_model("empty")
        yield address


@pytest.fixture(autouse=True)
def address(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def answers(found: Downloaded, feeds: dict[str, Any]) -> list[Any]:
    session = ort.InferenceSession(found.folder / "model.onnx")
    assert {one.name for one in session.get_inputs()} == feeds.keys()
    return list(session.run(None, feeds))


def test_a_classifier_by_alias_version_and_run(store: str, tmp_path: Path) -> None:
    model = RandomForestClassifier(n_estimators=5, random_state=0).fit(X, Y)
    run = logged(model, "forest", X[:5])
    mlflow.MlflowClient().set_registered_model_alias("forest", "champion", "1")
    for uri, version in (
        ("models:/forest@champion", "1"),
        ("models:/forest/1", "1"),
        ("models:/forest/latest", "1"),
        (f"runs:/{run}/model", ""),
    ):
        found = download(uri, tmp_path / str(abs(hash(uri))))
        assert (found.flavor, found.version, found.run) == ("sklearn", version, run)
        assert found.notes[0] == "inputs of FP64 are FP32 in the ONNX file"
        assert found.notes[1].startswith("5 rows of the input example have the same labels, their")
        labels, shares = answers(found, {"input": X.astype(np.float32)})
        assert np.array_equal(labels, model.predict(X))
        assert np.allclose(shares, model.predict_proba(X), atol=1e-6)


def test_a_pipeline_that_picks_columns_has_an_input_for_each(store: str, tmp_path: Path) -> None:
    columns = ColumnTransformer(
        [("city", OneHotEncoder(), ["city"]), ("rest", StandardScaler(), ["rooms", "area"])]
    )
    model = make_pipeline(columns, LinearRegression()).fit(TABLE, PRICE)
    logged(model, "prices", TABLE)
    found = download("models:/prices/1", tmp_path)
    assert found.notes[-1].startswith("4 rows of the input example differ by at most ")
    feeds = {
        "city": TABLE[["city"]].to_numpy(object),
        "rooms": TABLE[["rooms"]].to_numpy(np.int64),
        "area": TABLE[["area"]].to_numpy(np.float32),
    }
    assert np.allclose(np.ravel(answers(found, feeds)[0]), model.predict(TABLE), atol=1e-4)


def test_columns_that_nothing_picks_by_name_are_one_matrix(store: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(frame, Y)
    logged(model, "frame", frame[:3])
    feeds = {"input": X.astype(np.float32)}
    labels, _ = answers(download("models:/frame/1", tmp_path), feeds)
    assert np.array_equal(labels, model.predict(frame))


def test_a_model_of_texts(store: str, tmp_path: Path) -> None:
    texts = pd.Series(["good day", "bad day", "good night", "bad night"], name="text")
    model = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(
        texts, [1, 0, 1, 0]
    )
    signature = mlflow.models.infer_signature(pd.DataFrame({"text": texts}))
    logged(model, "texts", signature=signature)
    found = download("models:/texts/1", tmp_path)
    assert "compared with nothing" in found.notes[-1]
    labels, _ = answers(found, {"text": texts.to_numpy(object).reshape(-1, 1)})
    assert list(labels) == [1, 0, 1, 0]


def test_a_model_without_a_signature_says_what_is_guessed(store: str, tmp_path: Path) -> None:
    logged(LogisticRegression(max_iter=500).fit(X, Y), "bare")
    found = download("models:/bare/1", tmp_path)
    assert "without a signature it is assumed to have 4 columns of FP32" in found.notes


def test_the_form_of_skops_is_read(store: str, tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(X, Y)
    logged(model, "safe", X[:2], serialization_format="skops")
    feeds = {"input": X.astype(np.float32)}
    labels, _ = answers(download("models:/safe/1", tmp_path), feeds)
    assert np.array_equal(labels, model.predict(X))


def test_an_onnx_model_is_taken_byte_for_byte(store: str, tmp_path: Path) -> None:
    onnx = to_onnx(LogisticRegression(max_iter=500).fit(X, Y), X[:1].astype(np.float32))
    with mlflow.start_run():
        mlflow.onnx.log_model(
            onnx, name="model", registered_model_name="exported", save_as_external_data=False
        )
    found = download("models:/exported/1", tmp_path)
    assert (found.flavor, found.notes) == ("onnx", [])
    assert (tmp_path / "model.onnx").read_bytes() == onnx.SerializeToString()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def of_flavor(folder: Path, name: str, **flavor: Any) -> str:
    """Register a model with a made-up MLmodel; its URI."""
    made = folder / "made"
    made.mkdir()
    Model(flavors={name: flavor, "python_function": {}}).save(str(made / "MLmodel"))
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(made), "model")
    return f"runs:/{run.info.run_id}/model"


@pytest.mark.parametrize("name", ["pytorch", "xgboost", "prophet"])
def test_another_flavour_is_refused_with_what_converts_it(
    store: str, tmp_path: Path, name: str
) -> None:
    with pytest.raises(MlflowModelError) as caught:
        download(of_flavor(tmp_path, name), tmp_path / "out")
    assert f"is of the flavour {name}" in str(caught.value)
    assert CONVERTED_BY.get(name, "the framework's own exporter") in str(caught.value)


def test_a_manifest_that_leads_out_of_the_model_is_refused(store: str, tmp_path: Path) -> None:
    uri = of_flavor(tmp_path, "onnx", data="../../secret")
    with pytest.raises(MlflowModelError, match="which is not there"):
        download(uri, tmp_path / "out")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/nobody@champion", "nobody"),
        ("models:/empty@nobody", "alias nobody not found"),
        ("models:/empty/99", "version=99"),
        ("runs:/00000000000000000000000000000000/model", "not found"),
        ("models:/", "names no model of MLflow"),
        ("mlflow:/forest", "names no model of MLflow"),
    ],
)
def test_what_is_not_there_is_named(store: str, tmp_path: Path, uri: str, said: str) -> None:
    with pytest.raises(MlflowModelError) as caught:
        download(uri, tmp_path / "out")
    assert said in str(caught.value)
    assert uri in str(caught.value)


def test_a_model_that_answers_otherwise_is_refused(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.mlflow_models import sklearn_models

    logged(LogisticRegression(max_iter=500).fit(X, Y), "other", X[:3])
    flipped = LogisticRegression(max_iter=500).fit(X, 2 - Y)
    options = {id(flipped): {"zipmap": False}}
    types = [("input", FloatTensorType([None, 4]))]
    wrong = to_onnx(flipped, initial_types=types, options=options)
    monkeypatch.setattr(sklearn_models, "to_onnx", lambda *_, **__: wrong)
    with pytest.raises(MlflowModelError, match="answers the input example"):
        download("models:/other/1", tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def test_the_command_says_where_no_mlflow_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["fetch", "--from=models:/a/1"])
    assert done.exit_code == 1
    assert "there is no MLflow at sqlite:///mlflow.db: set MLFLOW_TRACKING_URI" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()


def test_the_command_prints_what_it_made(store: str, tmp_path: Path) -> None:
    logged(LogisticRegression(max_iter=500).fit(X, Y), "printed", X[:2])
    done = CliRunner().invoke(
        app, ["fetch", "--from=models:/printed/1", f"--to={tmp_path}", "--json"]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["flavor"], said["version"]) == ("sklearn", "1")
