"""Any tree of names and bytes comes out as it went in; any damage is refused or harmless."""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.conftest import session
from tests.unzip.support import (
    OPTIONS,
    Mortal,
    files_below,
    in_memory,
    manifest_of,
    put,
    service_on,
    verdict,
)
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.refusals import Reason, Refused
from unzip.s3.client import S3
from unzip.zip.kinds import Kind
from unzip.zip.limits import Limits

_EXTRACTOR = Extractor(OPTIONS)
_components = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/\\"),
    min_size=1,
    max_size=20,
).filter(
    lambda part: (
        part not in (".", "..") and len(part.encode()) < 250 and not re.match("[A-Za-z]:", part)
    )
)
_paths = st.lists(_components, min_size=1, max_size=4).map("/".join)


def _coexist(paths: list[str]) -> bool:
    normal = [unicodedata.normalize("NFC", path) for path in paths]
    parents = {"/".join(p.split("/")[:n]) for p in normal for n in range(1, p.count("/") + 1)}
    return len(set(normal)) == len(normal) and not parents & set(normal)


@st.composite
def entries(draw: st.DrawFn) -> list[zips.Entry]:
    paths = draw(st.lists(_paths, max_size=6))
    assume(_coexist(paths) and not any(path.startswith("_manifest.json") for path in paths))
    made = []
    for path in paths:
        descriptor: Any = draw(st.sampled_from(["", "signed", "unsigned", "signed64"]))
        made.append(
            zips.Entry(
                path.encode(),
                draw(st.binary(max_size=200)) * draw(st.sampled_from([1, 1, 50])),
                method=draw(st.sampled_from([0, 8, 12])),
                flags=zips.UTF8,
                descriptor=descriptor,
                zip64=draw(st.booleans()) and not descriptor,
            )
        )
    return made


@given(entries(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_tree_round_trips(made: list[zips.Entry], zip64: bool) -> None:
    data = zips.build(*made, zip64=zip64)
    assert verdict(_EXTRACTOR, data) == {
        entry.name.decode(): (len(entry.data), zlib.crc32(entry.data)) for entry in made
    }


_buckets = itertools.count()
KEY, RESULT = "kim/result.zip", "kim/result/"
# So small that a few kilobytes take every way: several to a span, alone in chunks, as an upload.
_NARROW = Options(readers=2, writers=4, span_bytes=1024, part_bytes=3000, keep_bytes=4000)


def _through_s3(
    server: S3Server, made: list[zips.Entry], options: Options, **build: Any
) -> tuple[dict[str, bytes], list[str]]:
    """What the real service makes of an archive on the real server, and the calls for it."""
    name = f"roundtrip-{next(_buckets)}"
    (server.folder / name).mkdir()
    store = S3(name, session=session(), endpoint=server.url, concurrency=8)
    put(store, KEY, zips.build(*made, **build))
    watched: Any = Mortal(store)
    with Extractor(options) as narrow:
        assert service_on(watched, narrow).sweep().outcomes == {"published": 1}
        assert narrow.kept.offer(options.keep_bytes)
    document = manifest_of(store, RESULT)
    assert document is not None
    found = files_below(store, RESULT)
    assert {row["path"]: (row["size"], row["crc32"]) for row in document["members"]} == {
        path: (len(body), f"{zlib.crc32(body):08x}") for path, body in found.items()
    }
    assert list(store.list_uploads("")) == []
    return found, watched.calls


@given(entries(), st.booleans(), st.sampled_from([0, 4000, 1 << 20]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_tree_round_trips_through_s3(
    s3_server: S3Server, made: list[zips.Entry], zip64: bool, keep_bytes: int, copies: bool
) -> None:
    options = replace(_NARROW, keep_bytes=keep_bytes, copies_rightly=lambda: copies)
    found, _ = _through_s3(s3_server, made, options, zip64=zip64)
    assert found == {entry.name.decode(): entry.data for entry in made}


def test_every_way_into_s3_is_taken(s3_server: S3Server) -> None:
    """Small and kept, small and read twice, in chunks, in parts, copied by S3: all in one."""
    sizes = {"tiny": 10, "several": 900, "chunks": 2500, "parts": 9000}
    made = [
        zips.Entry(f"{name}-{method}-{n}".encode(), zips.noise(size, n), method=method)
        for n in range(3)
        for method in (0, 8, 12)
        for name, size in sizes.items()
    ]
    options = replace(_NARROW, copies_rightly=lambda: True)
    found, calls = _through_s3(s3_server, made, options)
    assert found == {entry.name.decode(): entry.data for entry in made}
    kinds = Counter(call.split()[0] for call in calls if RESULT in call)
    assert (kinds["copy_part"], kinds["upload_part"], kinds["complete_upload"]) == (3, 6, 9)
    assert kinds["put"] == len(made) - 9 + 1  # and the manifest
    _, remembered = _through_s3(s3_server, made, replace(options, keep_bytes=1 << 20))
    reads = [sum(call.startswith("read ") for call in one) for one in (calls, remembered)]
    assert reads[0] > reads[1]


def _listed(data: bytes) -> dict[str, tuple[int, int]] | Reason:
    """Every member that is not a folder: a flipped bit of the attributes may call it a link."""
    source = in_memory(data)
    try:
        directory = _EXTRACTOR.read_directory(source, Limits())
        _EXTRACTOR.verify(source, directory.members, check=lambda: None)
    except Refused as error:
        return error.reason
    return {m.path: (m.size, m.crc) for m in directory.members if m.kind is not Kind.FOLDER}


_SEEDS = [
    data
    for name, (data, files) in zips.GOOD.items()
    if files and name not in ("backslashes from Windows",)
]


@st.composite
def mutants(draw: st.DrawFn) -> tuple[bytes, bytes]:
    data = draw(st.sampled_from(_SEEDS))
    mutant = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(mutant) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "truncate", "copy"]))
        if not mutant:
            break
        if kind == "flip":
            mutant[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            mutant[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del mutant[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            mutant[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "truncate":
            del mutant[at:]
        else:
            length = draw(st.integers(1, 60))
            to = draw(st.integers(0, len(mutant) - 1))
            mutant[to : to + length] = mutant[at : at + length]
    return data, bytes(mutant)


@given(mutants())
@settings(max_examples=400, deadline=None)
@example((_SEEDS[0], _SEEDS[0]))
def test_any_damage_is_refused_or_harmless(pair: tuple[bytes, bytes]) -> None:
    data, mutant = pair
    found = _listed(mutant)
    assert isinstance(found, Reason) or found == _listed(data)
