"""trainer.digits: the split and the pictures drawn from it."""

from __future__ import annotations

import numpy as np
import pytest

from kit.transforms import Preparation
from trainer import digits


def test_the_parts_are_disjoint_complete_and_the_same_each_time() -> None:
    training, held_out = digits.split()
    again, _ = digits.split()
    assert (len(training), len(held_out)) == (1437, 360)
    assert np.array_equal(training.pixels, again.pixels)
    rows = {row.tobytes() for row in training.pixels} & {row.tobytes() for row in held_out.pixels}
    assert not rows
    assert set(held_out.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("scale", [1, 3, 16, 28])
def test_every_held_out_digit_survives_its_picture_exactly(scale: int) -> None:
    _, held_out = digits.split()
    prepare = Preparation(digits.PREPROCESS)
    for row in held_out.pixels[:: 1 if scale == 16 else 9]:
        back = prepare(digits.png(row, scale))
        assert back.dtype == np.float32
        assert np.array_equal(back, row)


def test_a_row_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[64\]"):
        digits.png(np.zeros((8, 8), np.float32))


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="scale is 0"):
        digits.png(np.zeros(64, np.float32), 0)
