"""Pictures of strangers, decoded within an amount of memory that their heads tell.

A file of 700 bytes can hold 16 million pixels, so nothing is decoded before its head was read:
it gives the size, and with the format what decoding takes. Photographs in JPEG are decoded
smaller where a small picture is wanted, transparency is laid on white in strips.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from kit.pictures.parts import scans_of, too_many_parts

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 40_000_000
"""Largest picture that is decoded where nothing else is said: what today's telephones take."""

DRAFT_FROM = 1_000_000
"""Pixels from which a JPEG is decoded smaller where that is enough."""
MOST_SCANS = 64
"""Scans of a JPEG: a usual progressive one has ten, and each takes a walk over every pixel."""
MOST_SCANNED_PIXELS = 10 * MAX_PIXELS
"""Pixels of all its scans together: the largest picture in as many scans as usual."""
STRIP_PIXELS = 1 << 18

WEBP_BYTES = 20
"""Bytes a pixel takes while a WebP is decoded: two canvases, the frame, its copy, the picture.

Measured: 16.5; lossless files with many transforms take a few more."""
FIXED_BYTES = 5 * 1024 * 1024
"""What decoders and their tables take beside the pixels. Measured: 1.2 to 4.1 MiB."""

PngImagePlugin.MAX_TEXT_MEMORY = 1024 * 1024  # compressed comments; nobody reads them here

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "CMYK": 8}
"""Bytes a pixel takes in Pillow; every other mode takes four, RGB too. CMYK becomes L by RGB."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class PictureError(ValueError):
    """The payload is no picture that is accepted; the message says what it is and what is."""


def is_picture(payload: bytes) -> bool:
    """Whether a payload begins as a PNG, JPEG or WebP file does.

    Every JPEG begins with FF D8 FF; which marker follows depends on who wrote it.
    """
    return payload.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (
        payload[:4] == b"RIFF" and payload[8:12] == b"WEBP"
    )


class Picture:
    """A picture whose head was read and whose pixels were not.

    ``width`` and ``height`` are those of the file, or smaller ones that a JPEG will be decoded
    to; ``memory`` is the most bytes that :meth:`pixels` takes.
    """

    def __init__(
        self, payload: bytes, *, mode: str, max_pixels: int, enough: tuple[int, int] | None = None
    ) -> None:
        """PictureError where it is no picture, an animation, or has too many pixels.

        ``mode`` is L or RGB. ``enough`` is the width and height, upright, from which on a
        larger picture is of no use.
        """
        if found := too_many_parts(payload):
            raise PictureError(f"image has {found}: save it again")
        self._payload = payload
        self._mode = mode
        self._image: Image.Image | None = None
        if size := _webp_size(payload):
            # Pillow's decoder makes its canvases when it opens a file
            self.width, self.height = size
            self._check_size(max_pixels)
            loading = WEBP_BYTES
        else:
            with _reading(payload):
                self._image = image = Image.open(io.BytesIO(payload), formats=FORMATS)
                self.width, self.height = image.size
                self._check_size(max_pixels)
                if image.format == "PNG" and getattr(image, "is_animated", False):
                    raise PictureError("image is an animation: send one picture")
                if image.format != "PNG":
                    loading = self._jpeg(image, enough)
                else:
                    loading = _STORED.get(image.mode, 4)
        pixels = self.width * self.height
        self.stored = 1 if mode == "L" else 4
        # what is decoded, what it is converted to, and a copy of that turned or cropped
        self.memory = FIXED_BYTES + pixels * (loading + 2 * self.stored) + self._waiting

    _waiting = 0

    def _check_size(self, max_pixels: int) -> None:
        if self.width * self.height > max_pixels:
            raise PictureError(
                f"image of {self.width}x{self.height} pixels is larger than "
                f"{max_pixels} pixels: send a smaller one"
            )

    def _jpeg(self, image: Image.Image, enough: tuple[int, int] | None) -> int:
        """Ask for a smaller picture; bytes a pixel of it takes."""
        scans = scans_of(self._payload)
        if scans.several:
            self._check_scans(scans.most)
            # every coefficient waits in memory, two bytes each, for the last scan
            layers = getattr(image, "layer", ())
            largest = max((h * v for _, h, v, *_ in layers), default=1)
            share = sum(h * v for _, h, v, *_ in layers) / largest if layers else 4
            self._waiting = int(2 * share * self.width * self.height)
        if enough is not None and self.width * self.height > DRAFT_FROM:
            turned = self._orientation(image) >= 5
            image.draft(self._mode, enough[::-1] if turned else enough)
            self.width, self.height = image.size
        return _STORED.get(image.mode, 4)

    def _check_scans(self, scans: int) -> None:
        if scans > MOST_SCANS:
            raise PictureError(f"image has {scans} scans, more than {MOST_SCANS}: save it again")
        if scans * self.width * self.height > MOST_SCANNED_PIXELS and scans > 1:
            raise PictureError(
                f"image of {self.width}x{self.height} pixels in {scans} scans takes too long to "
                "decode: save it with fewer, or smaller"
            )

    def pixels(self) -> Image.Image:
        """The decoded picture, upright, in the mode asked for, transparency laid on white."""
        with _reading(self._payload):
            image, self._image = self._image, None
            if image is None:
                image = Image.open(io.BytesIO(self._payload), formats=FORMATS)
                if getattr(image, "is_animated", False):
                    raise PictureError("image is an animation: send one picture")
            with image:
                image.load()
                transposition = _UPRIGHT.get(self._orientation(image))
                flat = self._flat(image)
            return flat if transposition is None else flat.transpose(transposition)

    def _orientation(self, image: Image.Image) -> int:
        try:
            return int(image.getexif().get(_ORIENTATION, 1))
        except (ValueError, TypeError, KeyError, IndexError, SyntaxError, OSError):
            return 1  # cameras write broken EXIF too; the pixels are fine

    def _flat(self, image: Image.Image) -> Image.Image:
        deep = image.mode.startswith("I")
        if not (deep or image.has_transparency_data):
            return image if image.mode == self._mode else image.convert(self._mode)
        flat = Image.new(self._mode, image.size)
        clear = image.info.get("transparency") if deep else None
        rows = max(1, STRIP_PIXELS // image.width)
        for top in range(0, image.height, rows):
            strip = image.crop((0, top, image.width, min(image.height, top + rows)))
            flat.paste((_eight_bits(strip, clear) if deep else _on_white(strip))
                       .convert(self._mode), (0, top))  # fmt: skip
        return flat


@contextmanager
def _reading(payload: bytes) -> Iterator[None]:
    """Whatever Pillow says of a file as a PictureError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning; ours is an error
            yield
    except UnidentifiedImageError:
        raise PictureError(
            f"payload of {len(payload)} bytes is no PNG, JPEG or WebP image"
        ) from None
    except PictureError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(f"image cannot be decoded: {error}") from None


def _webp_size(payload: bytes) -> tuple[int, int] | None:
    """Width and height in a WebP's head, or None. Source: RFC 9649, sections 2.5 to 2.7."""
    if payload[:4] != b"RIFF" or payload[8:12] != b"WEBP" or len(payload) < 30:
        return None
    kind = payload[12:16]
    if kind == b"VP8X":
        width, height = payload[24:27], payload[27:30]
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(payload[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        bits = int.from_bytes(payload[26:30], "little")
        return bits & 0x3FFF, bits >> 16 & 0x3FFF
    return None


def _on_white(strip: Image.Image) -> Image.Image:
    rgba = strip.convert("RGBA")
    page = Image.new("RGBA", rgba.size, "white")
    page.alpha_composite(rgba)
    return page


def _eight_bits(strip: Image.Image, clear: object) -> Image.Image:
    """A strip of 16-bit grey in 8 bits; Pillow's own conversion makes everything bright white.

    ``clear`` is the grey that a PNG says is transparent, if it says so: it becomes white.
    """
    deep = np.asarray(strip)
    grey = (deep >> 8).astype(np.uint8)
    if isinstance(clear, int):
        grey[deep == clear] = 255
    return Image.fromarray(grey)
