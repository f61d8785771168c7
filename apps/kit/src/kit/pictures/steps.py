"""Steps of ``preprocess`` that make one picture of another, before it becomes numbers."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

LOOKED_AT = 256
"""Pixels a side that are looked at to find border and content; more would find the same."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Step(BaseModel):
    """One transform of ``model.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Invert(Step):
    """Dark and light are swapped: ``always``, or where the picture's border is its light part.

    A model of light ink on dark ground takes dark ink on paper that way, and both as they come.
    """

    transform: Literal["invert"]
    when: Literal["always", "light_border"] = "always"

    def picture(self, image: Image.Image) -> Image.Image:
        """The picture or its negative."""
        if self.when == "light_border" and not _has_light_border(image):
            return image
        return image.point(list(range(255, -1, -1)) * len(image.getbands()))


class Contrast(Step):
    """Ground becomes black and what stands on it white, however dim or bright the light was.

    Otsu's method parts the picture's greys into two classes; ``ground`` moves black from the
    darker class's mean (0) to the border between the classes (1). A picture of one grey stays.
    """

    transform: Literal["contrast"]
    ground: float = Field(default=0.5, ge=0, le=1)

    def picture(self, image: Image.Image) -> Image.Image:
        """The same picture with its greys stretched."""
        counts = np.asarray(_small(image).convert("L").histogram(), np.float64)
        found = _otsu(counts)
        if found is None:
            return image
        dark, border, light = found
        black = dark + self.ground * (border - dark)
        levels = np.clip((np.arange(256) - black) * (255 / max(light - black, 1)), 0, 255)
        return image.point(np.rint(levels).astype(int).tolist() * len(image.getbands()))


class CropToContent(Step):
    """The part of the picture that is brighter than ``threshold``, and ``margin`` around it.

    ``margin`` is a share of the part's longer side. Specks, lines or columns that hold less
    than ``speck`` of the brightness at their ends, are left out. A dark picture stays uncut.
    """

    transform: Literal["crop_to_content"]
    threshold: int = Field(default=127, ge=0, le=254)
    margin: float = Field(default=0.0, ge=0, le=1)
    speck: float = Field(default=0.0, ge=0, le=0.2)

    def picture(self, image: Image.Image) -> Image.Image:
        """A part of the picture."""
        small = _small(image)
        bright = np.asarray(small.convert("L")) > self.threshold
        if not bright.any():
            return image
        left, right = _ends(bright.sum(axis=0), self.speck)
        top, bottom = _ends(bright.sum(axis=1), self.speck)
        across, down = image.width / small.width, image.height / small.height
        around = self.margin * max((right - left) * across, (bottom - top) * down)
        return image.crop(
            (
                max(0, round(left * across - around)),
                max(0, round(top * down - around)),
                min(image.width, round(right * across + around)),
                min(image.height, round(bottom * down + around)),
            )
        )


class Resize(Step):
    """Pixels are resampled to ``width`` x ``height``.

    ``box`` is the exact inverse of an enlargement by an integer. ``fit`` says what happens
    to another proportion: ``stretch`` distorts it, ``contain`` keeps it and puts the picture
    into the middle of ``fill``.
    """

    transform: Literal["resize"]
    width: int = Field(gt=0, le=16384)
    height: int = Field(gt=0, le=16384)
    method: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "box"
    fit: Literal["stretch", "contain"] = "stretch"
    fill: int = Field(default=0, ge=0, le=255)

    def picture(self, image: Image.Image) -> Image.Image:
        """A picture of ``width`` x ``height``."""
        method = _RESAMPLING[self.method]
        if self.fit == "stretch":
            return image.resize((self.width, self.height), method)
        share = min(self.width / image.width, self.height / image.height)
        size = max(1, round(image.width * share)), max(1, round(image.height * share))
        fill = (self.fill,) * len(image.getbands())
        page = Image.new(image.mode, (self.width, self.height), fill)
        left, top = (self.width - size[0]) // 2, (self.height - size[1]) // 2
        page.paste(image.resize(size, method), (left, top))
        return page

    def memory(self, height: int, stored: int) -> int:
        """Bytes for a picture of ``height`` lines: they are all resampled across first."""
        return self.width * (height + 2 * self.height) * stored


PictureStep = Invert | Contrast | CropToContent | Resize


def _small(image: Image.Image) -> Image.Image:
    return image.reduce((max(1, image.width // LOOKED_AT), max(1, image.height // LOOKED_AT)))


def _has_light_border(image: Image.Image) -> bool:
    """Whether the border's middle grey is nearer to the lightest grey than to the darkest."""
    grey = np.asarray(_small(image).convert("L"))
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    dark, light = np.percentile(grey, (1, 99))
    return bool(np.median(border) > (float(dark) + float(light)) / 2)


def _otsu(counts: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Mean of the darker greys, the border, mean of the lighter ones; None for a single grey.

    Source: N. Otsu, "A threshold selection method from gray-level histograms" (1979).
    """
    greys = np.arange(256)
    below, above = counts.cumsum(), counts.sum() - counts.cumsum()
    dark_sum = (counts * greys).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        dark = dark_sum / below
        light = (dark_sum[-1] - dark_sum) / above
        between = np.nan_to_num(below * above * (dark - light) ** 2)
    best = int(between.argmax())
    if between[best] <= 0:
        return None
    return float(dark[best]), (float(dark[best]) + float(light[best])) / 2, float(light[best])


def _ends(brightness: NDArray[np.int64], speck: float) -> tuple[int, int]:
    """First and last position that hold content, the latter excluded."""
    share = brightness.cumsum() / brightness.sum()
    first = int(np.searchsorted(share, speck, side="right"))
    last = int(np.searchsorted(share, 1 - speck, side="left"))
    return first, min(last, len(brightness) - 1) + 1
