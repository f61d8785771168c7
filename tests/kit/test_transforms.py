"""kit.transforms: images in, rows out; scores in, labels out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from kit.transforms import Finish, Preparation, TransformError

GREY8 = [
    {"transform": "decode_image", "mode": "L"},
    {"transform": "resize", "width": 8, "height": 8, "method": "box"},
]


def encoded(pixels: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format)
    return buffer.getvalue()


@given(
    arrays(np.uint8, (8, 8)),
    st.integers(min_value=1, max_value=9),
)
def test_a_box_resize_undoes_a_whole_number_enlargement(pixels: np.ndarray, scale: int) -> None:
    large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    assert np.array_equal(Preparation(GREY8)(encoded(large)), pixels)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_each_image_format_is_decoded(format: str) -> None:
    steps = [
        {"transform": "decode_image", "mode": "RGB"},
        {"transform": "scale", "factor": 1 / 255},
        {"transform": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        {"transform": "transpose", "axes": [2, 0, 1]},
    ]
    row = Preparation(steps)(encoded(np.full((5, 4, 3), 255, np.uint8), format))
    assert row.shape == (3, 5, 4)
    assert row.dtype == np.float32
    assert np.allclose(row, 1.0, atol=0.02)


def test_transparency_is_paper_not_ink() -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    assert (Preparation(GREY8)(encoded(clear)) == 255).all()


def test_inverted_paper_is_dark() -> None:
    steps = [{"transform": "decode_image", "mode": "L", "invert": True}]
    assert (Preparation(steps)(encoded(np.full((2, 2), 255, np.uint8))) == 0).all()


@given(st.binary(max_size=300))
def test_bytes_that_are_no_image_are_refused_by_name(payload: bytes) -> None:
    with pytest.raises(TransformError, match="image"):
        Preparation(GREY8)(payload)


def test_a_cut_image_is_refused() -> None:
    whole = encoded(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    with pytest.raises(TransformError, match="decoded"):
        Preparation(GREY8)(whole[: len(whole) // 2])


def test_an_image_larger_than_the_limit_is_refused_before_it_is_decoded() -> None:
    steps = [{"transform": "decode_image", "mode": "L", "max_pixels": 99}]
    with pytest.raises(TransformError, match="10x10 pixels is larger than 99"):
        Preparation(steps)(encoded(np.zeros((10, 10), np.uint8)))


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        ([{"transform": "decode_imagee"}], "decode_imagee"),
        ([{"transform": "resize", "width": 8, "height": 8}], "decode_image comes first"),
        ([*GREY8, {"transform": "resize", "width": 0, "height": 8}], "width"),
        ([*GREY8, {"transform": "scale", "factr": 2}], "factr"),
        ([*GREY8, {"transform": "decode_image"}], "decode_image comes first"),
    ],
)
def test_a_misconfigured_step_is_named(steps: list[dict[str, object]], names: str) -> None:
    with pytest.raises(TransformError, match=names):
        Preparation(steps)


@pytest.mark.parametrize(
    ("step", "names"),
    [
        ({"transform": "reshape", "shape": [63]}, "reshape"),
        ({"transform": "transpose", "axes": [2, 0, 1]}, "transpose"),
        ({"transform": "normalize", "mean": [1, 2, 3], "std": [1, 2, 3]}, "normalize"),
    ],
)
def test_a_step_that_does_not_suit_the_picture_is_named(
    step: dict[str, object], names: str
) -> None:
    with pytest.raises(TransformError, match=names):
        Preparation([*GREY8, step])(encoded(np.zeros((8, 8), np.uint8)))


def test_resize_refuses_what_is_no_longer_pixels() -> None:
    steps = [GREY8[0], {"transform": "scale"}, GREY8[1]]
    with pytest.raises(TransformError, match="right after decode_image"):
        Preparation(steps)(encoded(np.zeros((8, 8), np.uint8)))


def test_labels_are_looked_up_row_by_row() -> None:
    finish = Finish(
        [
            {"transform": "softmax", "input": "scores", "output": "probabilities"},
            {
                "transform": "label_lookup",
                "input": "probabilities",
                "output": "class",
                "score_output": "score",
            },
        ],
        labels=["cat", "dog"],
    )
    outputs = finish({"scores": np.array([[0.0, 2.0], [1.0, -1.0]], np.float32)})
    assert finish.outputs == ("probabilities", "class", "score")
    assert outputs["class"].tolist() == ["dog", "cat"]
    assert np.allclose(outputs["probabilities"].sum(axis=1), 1)
    assert np.allclose(outputs["score"], outputs["probabilities"].max(axis=1))


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_large_scores_become_the_probabilities_of_small_ones(shift: float) -> None:
    """Without the largest score subtracted, exp(1000) is infinity and the answer no number."""
    finish = Finish([{"transform": "softmax", "input": "scores"}], labels=[])
    scores = np.array([[0.0, 2.0, 1.0]], np.float64) + shift
    wanted = np.exp([0.0, 2.0, 1.0]) / np.exp([0.0, 2.0, 1.0]).sum()
    assert np.allclose(finish({"scores": scores})["probabilities"], [wanted])


def test_too_few_labels_are_an_error_not_a_wrong_label() -> None:
    finish = Finish([{"transform": "label_lookup", "input": "p"}], labels=["only"])
    with pytest.raises(TransformError, match="1 labels"):
        finish({"p": np.zeros((1, 2), np.float32)})


def test_a_missing_output_is_named() -> None:
    with pytest.raises(TransformError, match="no output 'p'"):
        Finish([{"transform": "label_lookup", "input": "p"}])({"q": np.zeros((1, 2))})
