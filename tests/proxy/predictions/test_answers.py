"""proxy.predictions.answers: a model's outputs as a document for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.models import metadata as contracts
from proxy.models.backend import Answer
from proxy.predictions.answers import Prediction, distinct, interpret
from tests.proxy.conftest import METADATA


def predicted(labels: tuple[str, ...], scores: list[list[float]], **more: Any) -> dict[str, Any]:
    found = Prediction(
        model="m", version="1", variant="", pod="",
        outputs={"p": np.array(scores, np.float64), **more},
        labels=labels, probabilities="p", label=next(iter(more), ""),
    )  # fmt: skip
    return found.document()


@pytest.mark.parametrize("looked_up", [False, True])
def test_classes_of_one_label_keep_a_probability_each(looked_up: bool) -> None:
    """Found: of ImageNet's two cranes the second's probability stood under the first's label."""
    more = {"class": np.array(["crane"], object)} if looked_up else {}
    found = predicted(("crane", "cat", "crane"), [[0.75, 0.25, 0.0]], **more)
    assert found["probabilities"] == {"crane #0": 0.75, "cat": 0.25, "crane #2": 0.0}
    assert (found["label"], found["probability"]) == ("crane #0", 0.75)
    assert found["probabilities"][found["label"]] == found["probability"]


def test_labels_that_differ_stay_as_they_are() -> None:
    assert distinct(("cat", "dog")) == ("cat", "dog")
    assert distinct(("a", "a", "a #1")) == ["a #0", "a #1", "a #1 #2"]


@given(st.lists(st.sampled_from(["a", "b", "a #0", "a #1", "b #1 #1"]), max_size=8))
def test_no_two_classes_have_one_name(labels: list[str]) -> None:
    assert len(set(distinct(labels))) == len(labels)


def test_scores_of_another_width_than_the_labels_are_given_without_them() -> None:
    """A `label_lookup` with labels of its own: the model's other ones would name other classes."""
    steps = [{"transform": "label_lookup", "input": "p", "output": "c", "labels": ["x", "y"]}]
    described = METADATA | {
        "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, -1]}],
        "properties": {"labels": ["a", "b", "c"], "postprocess": steps},
    }
    contract = contracts.parse(described, name="m", max_pixels=1000)
    outputs = [{"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]}]
    body = orjson.dumps({"model_name": "m", "outputs": outputs})
    document = interpret(Answer(200, {}, body), contract, 1).document()
    assert document["outputs"] == {"p": [0.25, 0.75], "c": "y"}
