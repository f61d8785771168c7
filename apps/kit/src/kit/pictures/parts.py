"""How many parts a picture's file is made of, counted before a decoder walks over them.

Pillow reads the segments of a JPEG and the chunks of a PNG one after another in Python, some
microseconds each, and joins EXIF segments by copying: 30 MB of empty parts took it 40 seconds.
Pictures have tens of parts, and thousands only where a PNG's pixels are cut up.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MOST_PARTS = 1000
"""Segments or chunks beside a PNG's pixels: 64 MB of a JPEG's metadata, in its largest ones."""
MOST_PIXEL_CHUNKS = 16_384
"""IDAT chunks of a PNG: 128 MB in the 8 KiB chunks that libpng writes."""
MOST_EXIF_SEGMENTS = 8
"""EXIF fits into one segment; Pillow joins several, copying what it has for each."""
_MOST_FILL = 1024
"""Bytes between the segments of a JPEG that belong to none."""
_CHUNK = struct.Struct(">I4s")
_RIFF_CHUNK = struct.Struct("<4sI")
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers of a JPEG that have no length: TEM and the restart markers."""
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_APP1 = 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame's header (SOF0 to SOF15)."""
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})


@dataclass(frozen=True, slots=True)
class Scans:
    """What a JPEG's pixels are cut into.

    ``several``: its decoder keeps every coefficient until the last scan, however many there are:
    the frame is progressive, or its first scan lacks components. Else it reads one scan and no
    more. ``most`` is how many there may be; those of thumbnails before the first do not count.
    """

    several: bool
    most: int


def scans_of(payload: bytes) -> Scans:
    """The scans of a JPEG, by the headers before the first. Source: ITU-T T.81, B.2.2 and B.2.3."""
    at, progressive, components = 2, False, 0
    while (start := payload.find(b"\xff", at)) >= 0:
        marker, at = int.from_bytes(payload[start + 1 : start + 2], "big"), start + 2
        if marker == 0xFF:  # a fill byte: the next one may be the marker
            at = start + 1
        elif marker == _START_OF_SCAN:
            several = progressive or int.from_bytes(payload[at + 2 : at + 3], "big") < components
            return Scans(several, payload.count(b"\xff\xda", start))
        elif marker == _END_OF_IMAGE:
            break
        elif marker != 0 and marker not in _ALONE:
            if marker in _FRAMES:
                progressive = progressive or marker in _PROGRESSIVE
                components = max(components, int.from_bytes(payload[at + 7 : at + 8], "big"))
            at += int.from_bytes(payload[at : at + 2], "big") or 2
    return Scans(several=False, most=0)  # no scan: for the decoder to say


def too_many_parts(payload: bytes) -> str:
    """What there is too much of in a PNG, JPEG or WebP file; empty where it is as usual.

    What is wrong with a file is for its decoder to say: counting ends where it makes no sense.
    """
    if payload.startswith(b"\x89PNG"):
        return _too_many_chunks(payload)
    if payload.startswith(b"RIFF"):
        parts = sum(1 for _ in zip(range(MOST_PARTS + 1), _riff_chunks(payload), strict=False))
        return f"more than {MOST_PARTS} chunks" if parts > MOST_PARTS else ""
    return _too_many_segments(payload) if payload.startswith(b"\xff\xd8\xff") else ""


def _too_many_chunks(payload: bytes) -> str:
    """Source: PNG (Third Edition), 5.3."""
    at, pixels, others = 8, 0, 0
    while at + 8 <= len(payload):
        length, kind = _CHUNK.unpack_from(payload, at)
        if kind == b"IDAT":
            pixels += 1
        else:
            others += 1
        if others > MOST_PARTS:
            return f"more than {MOST_PARTS} chunks beside its pixels"
        if pixels > MOST_PIXEL_CHUNKS:
            return f"its pixels in more than {MOST_PIXEL_CHUNKS} chunks"
        at += 12 + length
    return ""


def _riff_chunks(payload: bytes) -> Iterator[bytes]:
    """Source: RFC 9649, section 2.3."""
    at = 12
    while at + 8 <= len(payload):
        kind, size = _RIFF_CHUNK.unpack_from(payload, at)
        yield kind
        at += 8 + size + size % 2


def _too_many_segments(payload: bytes) -> str:
    """What stands before the first scan. Source: ITU-T T.81, B.1.1."""
    at, segments, exif, fill = 2, 0, 0, 0
    while at + 1 < len(payload):
        start = payload.find(b"\xff", at, at + _MOST_FILL + 1)
        if start < 0:
            return f"more than {_MOST_FILL} bytes between two segments"
        fill += start - at
        marker = payload[start + 1]
        at = start + 2
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return ""
        if marker == 0xFF:  # a fill byte: the next one may be the marker
            fill, at = fill + 1, start + 1
        elif marker == 0:
            fill += 2
        else:
            segments += 1
            if marker not in _ALONE:
                exif += marker == _APP1 and payload[at + 2 : at + 8] == b"Exif\0\0"
                at += int.from_bytes(payload[at : at + 2], "big") or 2
        if fill > _MOST_FILL:
            return f"more than {_MOST_FILL} bytes between its segments"
        if segments > MOST_PARTS:
            return f"more than {MOST_PARTS} segments"
        if exif > MOST_EXIF_SEGMENTS:
            return f"more than {MOST_EXIF_SEGMENTS} segments of EXIF"
    return ""
