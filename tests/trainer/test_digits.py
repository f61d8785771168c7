"""trainer.digits: the split and the pictures drawn from it."""

from __future__ import annotations

import numpy as np
import pytest

from kit.transforms import Preparation
from trainer import digits, drawing


def test_the_parts_are_disjoint_complete_and_the_same_each_time() -> None:
    training, held_out = digits.split()
    again, _ = digits.split()
    assert (len(training), len(held_out)) == (1437, 360)
    assert np.array_equal(training.pixels, again.pixels)
    rows = {row.tobytes() for row in training.pixels} & {row.tobytes() for row in held_out.pixels}
    assert not rows
    assert set(held_out.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("scale", [1, 3, 16, 28])
def test_every_held_out_digit_becomes_a_row_of_the_datas_kind(scale: int) -> None:
    _, held_out = digits.split()
    prepare = Preparation(digits.PREPROCESS)
    for row in held_out.pixels[::9]:
        back = prepare(digits.png(row, scale))
        assert back.dtype == np.float32
        assert back.shape == (64,)
        assert (back == np.rint(back)).all()
        assert (back.min(), back.max()) >= (0, 8)
        assert back.max() <= digits.INK


@pytest.mark.parametrize("margin", [0.02, 0.15, 0.35])
@pytest.mark.parametrize("light_ink", [False, True])
def test_ink_and_margin_are_found_out(light_ink: bool, margin: float) -> None:
    """Found: a 7 in dark ink on white with a margin was answered 4, with 100 %."""
    chance = np.random.default_rng(0)
    plain = drawing.Style(side=320, margin=0.0)
    wanted = Preparation(digits.PREPROCESS)(drawing.from_strokes(7, plain, chance))
    style = drawing.Style(side=320, margin=margin, light_ink=light_ink, shift=(0.8, -0.5))
    chance = np.random.default_rng(0)
    row = Preparation(digits.PREPROCESS)(drawing.from_strokes(7, style, chance))
    assert np.abs(row - wanted).mean() < 1.5


def test_a_row_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[64\]"):
        digits.png(np.zeros((8, 8), np.float32))


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="scale is 0"):
        digits.png(np.zeros(64, np.float32), 0)
