"""kit.pictures.decode: what a picture takes is known from its head, and no file takes more."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from kit.pictures import decode as pictures
from kit.pictures.decode import MAX_PIXELS, MOST_SCANS, Picture, PictureError, is_picture
from kit.pictures.parts import MOST_EXIF_SEGMENTS, MOST_PARTS, MOST_PIXEL_CHUNKS
from kit.transforms import Preparation, TransformError

NO_JFIF = (Path(__file__).parent / "no_jfif.jpg").read_bytes()

# Prints, for each picture that a line of stdin names, the bytes that it took at most and those that
# were announced. Each is decoded in a process of its own, which has imported everything already.
MEASURE = """
import os, sys
from pathlib import Path
from kit.transforms import Preparation
def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
def measure(path, mode, steps):
    prepare = Preparation([{"transform": "decode_image", "mode": mode}, *steps])
    payload = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS:")
    head = prepare.read_head(payload)
    head.row()
    print(memory("VmHWM:") - before, head.memory, flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        measure(*eval(line))
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("failed", flush=True)
"""
TO_8 = [{"transform": "resize", "width": 8, "height": 8}]


def encoded(mode: str, size: tuple[int, int], format: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format, **how)
    return file.getvalue()


Measure = Callable[[bytes, str], tuple[int, int]]


@pytest.fixture(scope="module")
def peak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measure]:
    """How many bytes a picture took that became one of 8x8 pixels, and how many it announced."""
    path = tmp_path_factory.mktemp("pictures") / "picture"
    with subprocess.Popen(
        [sys.executable, "-c", MEASURE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        asked, answers = program.stdin, program.stdout

        def measure(payload: bytes, mode: str) -> tuple[int, int]:
            path.write_bytes(payload)
            asked.write(f"{(str(path), mode, TO_8)!r}\n")
            asked.flush()
            measured, said = answers.readline().split()
            return int(measured), int(said)

        yield measure


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("stored", "format", "how"),
    [
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "WEBP", {}),
        ("RGBA", "PNG", {}),
        ("I;16", "PNG", {}),
        ("P", "PNG", {"transparency": 0}),
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("CMYK", "JPEG", {}),
    ],
)
def test_no_format_takes_more_memory_than_its_head_told(
    peak: Measure, stored: str, format: str, how: dict[str, Any], mode: str
) -> None:
    payload = encoded(stored, (1800, 1500), format, **how)
    measured, said = peak(payload, mode)
    assert measured <= said


def test_a_webp_of_700_bytes_is_known_to_take_300_megabytes() -> None:
    payload = encoded("RGBA", (4000, 4000), "WEBP", lossless=True)
    assert len(payload) < 700
    head = Preparation([{"transform": "decode_image", "mode": "L"}, *TO_8]).read_head(payload)
    assert head.memory > 300 << 20


def test_a_photograph_is_decoded_smaller_where_a_small_picture_is_wanted(peak: Measure) -> None:
    payload = encoded("RGB", (6000, 4000), "JPEG")
    measured, said = peak(payload, "RGB")
    assert measured <= said < 24 << 20  # 96 MiB at its full size


def test_lines_without_number_do_not_become_a_table_without_end() -> None:
    """Pillow resamples across first: each of the lines becomes as wide as the result."""
    payload = encoded("L", (1, 4_000_000), "PNG")
    steps = [{"transform": "decode_image", "mode": "L"}]
    steps.append({"transform": "resize", "width": 500, "height": 500})
    assert Preparation(steps).read_head(payload).memory > 2_000_000_000


def test_resize_targets_are_bounded_like_pictures() -> None:
    steps = [{"transform": "decode_image"}, {"transform": "resize", "width": 9000, "height": 9000}]
    with pytest.raises(TransformError, match=r"preprocess\[1\].*9000x9000 is more than"):
        Preparation(steps)


def test_the_result_counts_where_nothing_makes_it_smaller() -> None:
    payload = encoded("RGB", (2000, 2000), "JPEG")
    steps = [{"transform": "decode_image"}, {"transform": "scale"}]
    assert Preparation(steps).read_head(payload).result == 2000 * 2000 * 3 * 16


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_limit_of_pixels_is_read_from_the_head(format: str) -> None:
    with pytest.raises(PictureError, match="10x20 pixels is larger than 199 pixels"):
        Picture(encoded("RGB", (10, 20), format), mode="L", max_pixels=199)
    Picture(encoded("RGB", (10, 20), format), mode="L", max_pixels=200)


def test_a_png_that_claims_a_billion_lines_is_refused_unread() -> None:
    head = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    chunk = b"IHDR" + head
    payload = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    payload += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 9) + b"IDAT123456789"
    with pytest.raises(PictureError, match="exceeds limit"):
        Picture(payload, mode="L", max_pixels=MAX_PIXELS)


def test_compressed_comments_are_not_unpacked_without_end() -> None:
    comment = zlib.compress(b"\0" * (1 << 19))
    text = b"zTXtComment\0\0" + comment
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    whole = encoded("L", (8, 8), "PNG")
    with pytest.raises(PictureError, match="decoded"):
        Picture(whole[:33] + chunk * 100 + whole[33:], mode="L", max_pixels=100)


def test_a_jpeg_of_many_scans_is_refused_by_their_number() -> None:
    whole = encoded("RGB", (16, 16), "JPEG", progressive=True)
    start = whole.index(b"\xff\xda")
    scan = whole[start : whole.index(b"\xff", start + 2)]
    payload = whole[:start] + scan * (MOST_SCANS + 1) + whole[start:]
    with pytest.raises(PictureError, match="scans"):
        Picture(payload, mode="L", max_pixels=1000)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """A PNG's chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def in_parts(kind: str) -> bytes:
    """A good picture with one part more than is taken."""
    jpeg = encoded("RGB", (16, 16), "JPEG")
    png, webp = encoded("L", (8, 8), "PNG"), encoded("RGB", (8, 8), "WEBP")
    end = len(png) - 12
    size = struct.pack("<I", len(webp) - 8 + 8 * MOST_PARTS)
    exif = b"\xff\xe1\x00\x08Exif\0\0"
    return {
        "chunks before the pixels": png[:33] + chunk(b"teSt") * MOST_PARTS + png[33:],
        "chunks after the pixels": png[:end] + chunk(b"teSt") * MOST_PARTS + png[end:],
        "pixels in chunks": png[:end] + chunk(b"IDAT") * MOST_PIXEL_CHUNKS + png[end:],
        "comments": jpeg[:2] + b"\xff\xfe\x00\x02" * MOST_PARTS + jpeg[2:],
        "restart markers": jpeg[:2] + b"\xff\xd0" * MOST_PARTS + jpeg[2:],
        "fill bytes": jpeg[:2] + b"\xff" * 2000 + jpeg[2:],
        "bytes of nothing": jpeg[:4] + b"\0\x02" + b"\0" * 2000 + jpeg[2:],
        "EXIF": jpeg[:2] + exif * (MOST_EXIF_SEGMENTS + 1) + jpeg[2:],
        "RIFF chunks": b"RIFF" + size + webp[8:] + b"JUNK\0\0\0\0" * MOST_PARTS,
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["chunks before the pixels", "chunks after the pixels", "pixels in chunks", "comments",
     "restart markers", "fill bytes", "bytes of nothing", "EXIF", "RIFF chunks"],
)  # fmt: skip
def test_a_picture_of_very_many_parts_is_refused_before_it_is_read(kind: str) -> None:
    """Found: Pillow took 43 s for 30 MB of fill bytes, 5 s for a million empty chunks."""
    with pytest.raises(PictureError, match=r"image has .*more than [0-9]+ .*: save it again"):
        Picture(in_parts(kind), mode="L", max_pixels=1000)


def test_pictures_with_long_metadata_are_taken() -> None:
    jpeg = encoded("RGB", (16, 16), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    profile = b"\xff\xe2\xff\xffICC_PROFILE\0\x01\x01" + bytes(65519)
    photograph = jpeg[:2] + profile * 40 + b"\xff" * 20 + jpeg[2:]
    Picture(photograph, mode="L", max_pixels=1000).pixels()
    png = encoded("L", (8, 8), "PNG")
    many = png[:33] + chunk(b"teSt", bytes(100)) * 500 + png[33:]
    Picture(many, mode="L", max_pixels=1000).pixels()


def test_the_scans_of_a_large_jpeg_are_bounded_together() -> None:
    """Found: 0.24 MB in 60 scans of 40 million pixels took a decoder 3 s."""
    whole = encoded("RGB", (2000, 2000), "JPEG", progressive=True)
    start = whole.rindex(b"\xff\xda")
    payload = whole[:-2] + whole[start:-2] * 40 + whole[-2:]
    Picture(payload, mode="L", max_pixels=MAX_PIXELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "MOST_SCANNED_PIXELS", 40 * 2000 * 2000)
        with pytest.raises(PictureError, match="scans takes too long to decode"):
            Picture(payload, mode="L", max_pixels=MAX_PIXELS)


def test_the_clear_grey_of_a_deep_picture_becomes_white() -> None:
    """Found: of 16-bit greys the transparent one stayed what it was, mostly black."""
    file = io.BytesIO()
    greys = np.array([[0x0028, 0x0029, 0x8028]], np.uint16)
    Image.fromarray(greys).save(file, "PNG", transparency=0x0028)
    flat = Picture(file.getvalue(), mode="L", max_pixels=100).pixels()
    assert np.asarray(flat).tolist() == [[255, 0, 0x80]]


def with_thumbnail(payload: bytes) -> bytes:
    """As cameras write it: a small JPEG inside the EXIF segment."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + encoded("RGB", (16, 12), "JPEG")
    return payload[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + payload[2:]


def with_preview(payload: bytes) -> bytes:
    """As telephones write it (MPF): a second picture behind the first."""
    return payload + encoded("RGB", (16, 12), "JPEG")


@pytest.mark.parametrize("more", [with_thumbnail, with_preview])
def test_pictures_inside_a_photograph_cost_it_no_memory(more: Callable[[bytes], bytes]) -> None:
    """Found: a thumbnail counted as a scan; 24 million pixels took 147 MiB, more than there is."""
    plain = encoded("RGB", (1600, 1200), "JPEG", subsampling=0)
    sizes = [Picture(p, mode="L", max_pixels=MAX_PIXELS, enough=(512, 512)).memory
             for p in (plain, more(plain))]  # fmt: skip
    assert sizes[0] == sizes[1]
    Picture(more(plain), mode="L", max_pixels=MAX_PIXELS).pixels()


@pytest.mark.parametrize("how", [{}, {"progressive": True}])
def test_the_scans_of_a_thumbnail_are_not_those_of_its_photograph(how: dict[str, Any]) -> None:
    whole = with_thumbnail(encoded("RGB", (200, 200), "JPEG", **how))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "MOST_SCANS", whole.count(b"\xff\xda") - 1)
        Picture(whole, mode="L", max_pixels=MAX_PIXELS)


def first_scan_only(payload: bytes) -> bytes:
    """A JPEG that ends after its first scan, which decoders take."""
    start = payload.index(b"\xff\xda")
    header = int.from_bytes(payload[start + 2 : start + 4], "big")
    following = re.compile(rb"\xff[^\x00\xff]").search(payload, start + 2 + header)
    assert following is not None
    return payload[: following.start()] + b"\xff\xd9"


def one_component_first(payload: bytes) -> bytes:
    """A sequential JPEG whose first scan has one of its three components."""
    start = payload.index(b"\xff\xda")
    alone = b"\xff\xda\x00\x08\x01" + payload[start + 5 : start + 7] + b"\x00\x3f\x00"
    return payload[:start] + alone + payload[start + 14 :]


@pytest.mark.parametrize("kind", ["progressive", "one component"])
def test_a_jpeg_that_waits_for_scans_that_never_come_takes_what_it_says(
    peak: Measure, kind: str
) -> None:
    """Found: the first scan of ten, 234 kB, took 229 MiB; two such pictures end a pod."""
    size = (2400, 2000)
    payload = (
        first_scan_only(encoded("RGB", size, "JPEG", progressive=True, subsampling=0))
        if kind == "progressive"
        else one_component_first(encoded("RGB", size, "JPEG", subsampling=0))
    )
    assert payload.count(b"\xff\xda") == 1
    measured, said = peak(payload, "L")
    assert measured < said
    assert said > 2 * 3 * size[0] * size[1]  # what its decoder reserves, touched or not


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_refused_by_name(format: str) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    with pytest.raises(TransformError, match="animation"):
        Preparation([{"transform": "decode_image"}])(file.getvalue())


def test_formats_nobody_asked_for_are_refused() -> None:
    for format in ("GIF", "BMP", "TIFF", "ICO"):
        with pytest.raises(PictureError, match="no PNG, JPEG or WebP"):
            Picture(encoded("L", (8, 8), format), mode="L", max_pixels=100)


def test_a_jpeg_is_known_by_its_first_three_bytes() -> None:
    assert NO_JFIF[:3] == b"\xff\xd8\xff"
    assert NO_JFIF[3] != 0xE0
    assert is_picture(NO_JFIF)
    Picture(NO_JFIF, mode="L", max_pixels=MAX_PIXELS).pixels()
    for format in ("PNG", "JPEG", "WEBP"):
        assert is_picture(encoded("L", (8, 8), format))
    assert not is_picture(b"\xff\xd8 not one")
    assert not is_picture(b"RIFF\0\0\0\0WAVEfmt ")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_a_camera_wrote_is_applied(format: str, orientation: int) -> None:
    upright = Image.new("L", (48, 32))
    ImageDraw.Draw(upright).rectangle((0, 0, 23, 15), fill=255)  # light: above, left
    turned_by = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes each, in Pillow's words
    stored = upright
    if orientation > 1:
        stored = upright.transpose(Image.Transpose(turned_by[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, format, exif=exif, **({} if format == "PNG" else {"quality": 95}))
    seen = Preparation([{"transform": "decode_image", "mode": "L"}])(file.getvalue())
    assert seen.shape == (32, 48)
    assert np.array_equal(seen > 127, np.asarray(upright) > 127)


def test_a_turned_photograph_is_made_smaller_the_right_way_round() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = encoded("L", (6000, 1500), "JPEG", exif=exif)
    picture = Picture(payload, mode="L", max_pixels=MAX_PIXELS, enough=(512, 2048))
    assert (picture.width, picture.height) == (3000, 750)
    assert picture.pixels().size == (750, 3000)


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16)).save(file, "PNG")
    row = Preparation([{"transform": "decode_image", "mode": "L"}])(file.getvalue())
    assert row.tolist() == [[0, 0x40, 0x80, 0xFF]]


def test_a_transparent_palette_is_paper() -> None:
    payload = encoded("P", (8, 8), "PNG", transparency=0)
    assert (Preparation([{"transform": "decode_image", "mode": "L"}])(payload) == 255).all()


def test_broken_exif_does_not_lose_the_picture() -> None:
    payload = encoded("L", (8, 8), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    Preparation([{"transform": "decode_image", "mode": "L"}])(payload)


@given(st.data())
def test_a_damaged_picture_is_refused_or_read(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    whole = bytearray(encoded("RGBA" if format != "JPEG" else "RGB", (16, 16), format))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    prepare = Preparation([{"transform": "decode_image", "mode": "L"}, *TO_8], max_pixels=10_000)
    try:
        assert prepare(bytes(whole)).shape == (8, 8)
    except TransformError as error:
        assert "image" in str(error)
