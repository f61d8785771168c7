"""The handwritten digits: 1,797 pictures of 8x8 pixels, each 0 (paper) to 16 (ink).

Source: scikit-learn's ``load_digits``, the test set of the UCI ML hand-written digits data.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 8
INK = 16
HELD_OUT_SHARE = 0.2
SEED = 20

PREPROCESS: list[dict[str, object]] = [
    {"transform": "decode_image", "mode": "L"},
    {"transform": "invert", "when": "light_border"},
    {"transform": "contrast", "ground": 0.5},
    {"transform": "crop_to_content", "threshold": 127, "speck": 0.002},
    {"transform": "resize", "width": 4 * SIDE, "height": 4 * SIDE, "fit": "contain"},
    {"transform": "resize", "width": SIDE, "height": SIDE, "method": "box"},
    {"transform": "scale", "factor": INK / 255},
    {"transform": "round"},
    {"transform": "reshape", "shape": [SIDE * SIDE]},
]
"""From a picture of a digit, dark or light, with a margin or without, to a row like the data's.

The data were made the same way: each digit cut out, fitted into 32x32, and counted by 4x4.
"""

LABELS = [str(digit) for digit in range(10)]


@dataclass(frozen=True, slots=True)
class Digits:
    """``pixels`` float32 [n, 64], integers 0 to 16, row-major; ``labels`` int64 [n]."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def split() -> tuple[Digits, Digits]:
    """The training part (1,437) and the held-out part (360), the same on every machine.

    Stratified by label, with a fixed seed; no model of ours ever trains on the second part.
    """
    # Two seconds of import time that whoever draws or names a digit does without.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # noqa: PLC0415
    from sklearn.model_selection import (  # type: ignore[import-untyped]  # noqa: PLC0415
        train_test_split,
    )

    pixels, labels = load_digits(return_X_y=True)
    train_x, held_x, train_y, held_y = train_test_split(
        pixels.astype(np.float32),
        labels.astype(np.int64),
        test_size=HELD_OUT_SHARE,
        stratify=labels,
        random_state=SEED,
    )
    return Digits(train_x, train_y), Digits(held_x, held_y)


def png(row: NDArray[np.float32], scale: int = 16) -> bytes:
    """A row of 64 pixels as a grey PNG of ``8 * scale`` pixels a side, ink white on black.

    It fills its picture as the row does. What people send has a margin: see
    :mod:`trainer.drawing`.
    """
    if row.shape != (SIDE * SIDE,):
        raise ValueError(f"a digit has shape [64], got {list(row.shape)}")
    if scale < 1:
        raise ValueError(f"scale is {scale}: it must be 1 or more")
    grey = np.rint(row.reshape(SIDE, SIDE) * (255 / INK)).astype(np.uint8)
    picture = io.BytesIO()
    Image.fromarray(grey.repeat(scale, axis=0).repeat(scale, axis=1)).save(picture, format="PNG")
    return picture.getvalue()
