"""Labels and postprocess of model.json go with the model's outputs, or the model is not READY."""

from __future__ import annotations

from typing import Any

import pytest

from inference.errors import ModelError
from inference.models.postprocess_check import check_postprocess
from inference.repository.manifest import Manifest, TensorSpec
from kit.transforms import Finish

LOOKUP = {"transform": "label_lookup", "input": "scores", "output": "class"}


def checked(shape: list[int], labels: list[str], *steps: dict[str, Any]) -> None:
    described = Manifest(name="m", version="1", labels=labels, postprocess=list(steps))
    outputs = [TensorSpec(name="scores", datatype="FP32", shape=shape)]
    check_postprocess(described, Finish(list(steps), labels), outputs)


@pytest.mark.parametrize(
    ("shape", "labels", "said"),
    [
        ([-1, 3], ["cat", "dog"], r"labels: there are 2, and the output 'scores' has 3 columns"),
        ([-1, 3], ["a", "b", "c", "d"], r"there are 4, .* has 3 columns"),
        ([-1, 3], [], r'there are none: give "labels", 3 of them for the output \'scores\''),
        ([-1, -1], [], r"one for each column"),
        ([2], ["cat", "dog"], r"takes an output of rows and classes, and 'scores' has the shape"),
    ],
)
def test_labels_that_are_not_those_of_the_output_are_refused(
    shape: list[int], labels: list[str], said: str
) -> None:
    """Found: a model without any labels to look up was READY, and every prediction failed."""
    with pytest.raises(ModelError, match=said):
        checked(shape, labels, LOOKUP)


@pytest.mark.parametrize(("shape", "labels"), [([-1, 2], ["cat", "dog"]), ([-1, -1], ["cat"])])
def test_labels_that_may_be_those_of_the_output_are_taken(
    shape: list[int], labels: list[str]
) -> None:
    checked(shape, labels, LOOKUP)


def test_labels_of_the_step_itself_count() -> None:
    own = LOOKUP | {"labels": ["cat", "dog", "owl"]}
    checked([-1, 3], ["cat"], own)
    with pytest.raises(ModelError, match="there are 3"):
        checked([-1, 2], ["cat", "dog"], own)


def test_an_output_of_an_earlier_step_has_the_shape_of_its_input() -> None:
    softmax = {"transform": "softmax", "input": "scores", "output": "probabilities"}
    after = LOOKUP | {"input": "probabilities"}
    checked([-1, 2], ["cat", "dog"], softmax, after)
    with pytest.raises(ModelError, match="'probabilities' has 3 columns"):
        checked([-1, 3], ["cat", "dog"], softmax, after)


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"no output 'score', only \['scores'\]"):
        checked([-1, 2], ["cat", "dog"], LOOKUP | {"input": "score"})
