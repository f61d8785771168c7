"""What is in S3 afterwards is what the directory promises, or nothing is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest

from tests.unzip import zips
from tests.unzip.support import files_below, manifest_of, put, service_on
from unzip.extract.buffers import Unverified
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.extract.publication import Publication
from unzip.extract.source import Source
from unzip.s3.client import S3
from unzip.zip.limits import Limits

KEY, RESULT = "kim/result.zip", "kim/result/"
MIB = 1 << 20


@pytest.mark.parametrize("method", [0, 8])
def test_members_that_come_in_chunks_are_published_whole(store: S3, method: int) -> None:
    """Found: of a member larger than a span and no larger than a part, the last chunk was kept."""
    sizes = (5 * MIB, 6 * MIB + 1, 7 * MIB, 8 * MIB)
    noise = zips.noise(8 * MIB)
    files = {f"{size}.bin": noise[:size] for size in sizes}
    entries = [zips.Entry(name.encode(), data, method=method) for name, data in files.items()]
    put(store, KEY, zips.build(*entries, zips.A))
    options = Options()
    with Extractor(options) as default:
        assert service_on(store, default).sweep().outcomes == {"published": 1}
        assert default.kept.offer(options.keep_bytes)  # nothing is held any longer
    found = files_below(store, RESULT)
    assert found == files | {"a.txt": b"alpha\n"}
    document = manifest_of(store, RESULT)
    assert document is not None
    said = {row["path"]: (row["size"], row["crc32"]) for row in document["members"]}
    assert said == {path: (len(b), f"{zlib.crc32(b):08x}") for path, b in found.items()}


def _altered(chunks: Iterator[bytes], change: str) -> Iterator[bytes]:
    for number, chunk in enumerate(chunks):
        if change == "cut" and number == 0:
            yield chunk[:-1]
        elif change == "flipped" and number == 0:
            yield bytes([chunk[0] ^ 1]) + chunk[1:]
        else:
            yield chunk


@pytest.mark.parametrize("change", ["cut", "flipped"])
@pytest.mark.parametrize("size", [100, 6 * MIB, 9 * MIB], ids=["small", "chunks", "parts"])
@pytest.mark.parametrize("keep_bytes", [0, 48 * MIB], ids=["read twice", "kept"])
def test_bytes_other_than_the_directory_promises_are_never_visible(
    store: S3, change: str, size: int, keep_bytes: int
) -> None:
    """Found: whatever a defect of ours made of a member was sent with a CRC of its own."""

    class Defective(Extractor):
        def members(self, *args: object) -> Iterator[tuple[int, Iterator[bytes]]]:  # type: ignore[override]
            for index, chunks in super().members(*args):  # type: ignore[arg-type]
                yield index, _altered(chunks, change)

    put(store, KEY, zips.build(zips.Entry(b"x", zips.noise(size), method=8)))
    with Defective(Options(keep_bytes=keep_bytes)) as defective:
        assert service_on(store, defective).sweep().outcomes == {}
        assert defective.kept.offer(keep_bytes)
    assert list(store.entries(RESULT)) == []
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize("copies", [False, True], ids=["sent", "copied"])
def test_parts_that_are_not_the_member_are_not_completed(store: S3, *, copies: bool) -> None:
    """The length is ours to check; a server that copies keeps no CRC of the whole."""
    data = zips.build(zips.Entry(b"x", zips.noise(9 * MIB), method=0))
    etag = put(store, KEY, data)
    source = Source(store, KEY, etag, len(data))
    with Extractor(Options(copies_rightly=lambda: copies)) as extractor:
        listed = extractor.read_directory(source, Limits()).members
        with Publication(
            extractor, source, listed, store, RESULT, check=lambda: None
        ) as publication:
            types = extractor.verify(source, listed, check=lambda: None, take=publication.take)
            filled = publication._uploads._filled
            ((index, upload),) = filled.items()
            filled[index] = type(upload)(upload.identity, upload.parts, upload.size - 1)
            with pytest.raises(Unverified, match="9437183 bytes"):
                publication.publish(types, fenced=lambda: None, existing=[])
    assert list(store.entries(RESULT)) == []
