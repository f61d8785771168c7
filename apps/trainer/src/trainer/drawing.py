"""Draws digits the way people send them: on paper or a screen, with a margin, in any stroke.

The model is trained and judged on such pictures, made ready by the very steps that its
``model.json`` lists, so what it meets online is what it has learned.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

_STROKES: dict[int, tuple[str, ...]] = {
    0: ("35,0 8,20 3,50 10,82 35,100 60,82 67,50 60,18 35,0",),
    1: (
        "35,0 35,100",
        "12,25 38,0 38,100",
        "12,25 38,0 38,100 / 10,100 62,100",
    ),
    2: ("5,22 20,3 45,2 62,20 55,45 30,70 5,98 67,98",),
    3: (
        "8,10 35,0 60,14 58,36 28,47 60,58 66,82 38,100 5,90",
        "5,2 62,2 30,40 60,55 64,82 38,100 5,92",
    ),
    4: (
        "45,0 3,65 67,65 / 48,30 48,100",
        "10,0 8,50 65,50 / 58,0 55,100",
    ),
    5: ("62,2 12,2 8,42 40,38 64,60 58,88 30,100 4,90",),
    6: ("52,2 22,22 6,60 15,92 40,100 62,85 58,60 32,52 8,68",),
    7: (
        "3,3 65,3 28,100",
        "3,3 65,3 28,100 / 18,50 56,50",
    ),
    8: ("35,47 10,25 35,0 60,25 35,47 6,75 35,100 64,75 35,47",),
    9: (
        "60,25 40,2 12,10 8,36 32,50 60,36 62,10 60,60 45,100",
        "60,25 40,2 12,10 8,36 32,50 60,36 60,10 58,100",
    ),
}
"""How a digit is drawn, in a box 70 wide and 100 high, from above; several ways where people
differ, strokes parted by a slash."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a digit is put on its ground; lengths are shares of the picture's or digit's side."""

    side: int = 280
    margin: float = 0.2
    stroke: float = 0.5
    """0 is thin, 1 is thick."""
    light_ink: bool = False
    angle: float = 0.0
    """Degrees against the clock."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Share of the margin by which the digit is off the middle, -1 to 1."""
    ink: int = 20
    ground: int = 245
    shadow: float = 0.0
    """How much darker the ground is at its darkest corner."""
    noise: float = 0.0
    blur: float = 0.0


def random_style(chance: np.random.Generator, *, largest: int = 640) -> Style:
    """A style that somebody might have: pen or marker, paper or screen, scan or photograph.

    No picture is larger than ``largest`` pixels a side.
    """
    photograph = chance.random() < 0.4
    return Style(
        side=int(chance.integers(64, largest)),
        margin=float(chance.uniform(0.03, 0.35)),
        stroke=float(chance.random()),
        light_ink=bool(chance.random() < 0.3),
        angle=float(chance.normal(0, 5)),
        shift=(float(chance.uniform(-0.7, 0.7)), float(chance.uniform(-0.7, 0.7))),
        ink=int(chance.integers(0, 80)),
        ground=int(chance.integers(190 if photograph else 235, 256)),
        shadow=float(chance.uniform(0.05, 0.25)) if photograph else 0.0,
        noise=float(chance.uniform(1, 8)) if photograph else 0.0,
        blur=float(chance.uniform(0.002, 0.008)) if photograph else 0.0,
    )


def from_pixels(row: NDArray[np.float32], style: Style) -> bytes:
    """A handwritten digit of 8x8 pixels (float32 [64], 0 to 16) as a JPEG in this style."""
    inner = _inner(style)
    grey = np.pad(np.rint(row.reshape(8, 8) * (255 / 16)).astype(np.uint8), 1)
    side = inner * 10 // 8
    mask = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
    mask = mask.filter(ImageFilter.GaussianBlur(inner / 24))
    level = round(130 - 75 * style.stroke)
    return _put(mask.point([0] * level + [255] * (256 - level)), style)


def from_strokes(label: int, style: Style, chance: np.random.Generator) -> bytes:
    """A digit drawn in one movement or two, as a JPEG in this style."""
    inner = _inner(style)
    ways = _STROKES[label]
    width = max(2, round(inner * (0.035 + 0.13 * style.stroke)))
    stretch, slant = chance.uniform(0.75, 1.1), chance.normal(0, 0.1)
    mask = Image.new("L", (round(inner * 1.6), round(inner * 1.4)))
    draw = ImageDraw.Draw(mask)
    for stroke in ways[int(chance.integers(len(ways)))].split(" / "):
        points = np.array([point.split(",") for point in stroke.split()], np.float64) / 100
        moved = points + chance.normal(0, 0.018, (len(points), 2))
        moved[:, 0] = moved[:, 0] * stretch + slant * (0.5 - moved[:, 1]) + 0.4
        line = [(float(x), float(y)) for x, y in _curve(moved) * (inner - width) + inner * 0.2]
        draw.line(line, fill=255, width=width, joint="curve")
        for x, y in (line[0], line[-1]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return _put(mask, style)


def _inner(style: Style) -> int:
    return max(8, round(style.side * (1 - 2 * style.margin)))


def _curve(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners rounded off twice. Source: G. Chaikin, "An algorithm for high-speed curves"."""
    for _ in range(2):
        if len(points) > 3:
            before, after = points[:-1], points[1:]
            middle = np.stack([before * 0.8 + after * 0.2, before * 0.2 + after * 0.8], axis=1)
            points = np.concatenate([points[:1], middle.reshape(-1, 2), points[-1:]])
    return points


def _put(mask: Image.Image, style: Style) -> bytes:
    """The digit of ``mask`` on its ground, as a JPEG."""
    mask = mask.rotate(style.angle, expand=True, resample=Image.Resampling.BILINEAR)
    box = mask.getbbox()
    if box is not None:
        mask = mask.crop(box)
    mask.thumbnail((_inner(style), _inner(style)))
    page = Image.new("L", (style.side, style.side))
    free = style.side - mask.width, style.side - mask.height
    left, top = (round(free[n] * (1 + style.shift[n]) / 2) for n in (0, 1))
    page.paste(mask, (left, top))
    if style.blur:
        page = page.filter(ImageFilter.GaussianBlur(style.side * style.blur))
    share = np.asarray(page, np.float64) / 255
    across = np.linspace(0, 1, style.side)
    light = 1 - style.shadow * (across[None, :] + across[:, None]) / 2
    grey = (style.ground + (style.ink - style.ground) * share) * light
    grey += np.random.default_rng(style.side).normal(0, style.noise, grey.shape)
    if style.light_ink:
        grey = 255 - grey
    file = io.BytesIO()
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()
