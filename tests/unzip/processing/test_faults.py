"""A network that delays, cuts, resets and answers 503: all is done all the same, and once."""

from __future__ import annotations

import pytest

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.conftest import session
from tests.unzip.faults import KINDS, faulty
from tests.unzip.support import Recorder, files_below, manifest_of, put, service_on
from unzip.extract.extractor import Extractor
from unzip.extract.options import Options
from unzip.s3.client import S3

KEY, RESULT = "kim/result.zip", "kim/result/"


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_published_through_a_bad_network(
    s3_server: S3Server, store: S3, bucket: str, kind: str
) -> None:
    files = {f"d{n % 4}/{n}.txt": f"{n}\n".encode() * n for n in range(60)}
    data = zips.build(
        *(zips.Entry(name.encode(), body) for name, body in files.items()),
        zips.Entry(b"big.txt", b"line of text\n" * 480_000),
        zips.Entry(b"stored.bin", zips.noise(6 << 20), method=0),
    )
    put(store, KEY, data)
    backend = Recorder()
    with faulty(s3_server.url) as faults, Extractor(Options(part_bytes=5 << 20)) as extractor:
        through = S3(
            bucket,
            session=session(),
            endpoint=faults.url,
            concurrency=8,
            timeout_seconds=10,
            pause_seconds=0.01,
        )
        faults.kinds = KINDS if kind == "all" else (kind,)
        faults.rate = 0.15
        tally = service_on(through, extractor, backend).sweep()
    assert tally.outcomes == {"published": 1}
    assert sum(faults.happened.values()) >= 5
    everything = files_below(store, RESULT)
    assert {path: everything[path] for path in files} == files
    assert len(everything["big.txt"]) == 480_000 * 13
    assert everything["stored.bin"] == zips.noise(6 << 20)
    assert len(backend.events) == 1
    assert manifest_of(store, RESULT) is not None
    assert list(store.list_uploads(RESULT)) == []


def test_refused_through_a_bad_network(s3_server: S3Server, store: S3, bucket: str) -> None:
    """A cut answer is the network's fault, never the archive's: the reasons stay the same."""
    cases = dict(list(zips.BAD.items())[::6])
    for number, (data, _) in enumerate(cases.values()):
        put(store, f"{number}/result.zip", data)
    with faulty(s3_server.url) as faults, Extractor(Options()) as extractor:
        faults.rate = 0.1
        through = S3(
            bucket,
            session=session(),
            endpoint=faults.url,
            concurrency=8,
            timeout_seconds=10,
            pause_seconds=0.01,
        )
        service = service_on(through, extractor, archives_at_once=4)
        service.sweep()
        reasons = {}
        for identity in service.ledger.ids("closed"):
            from unzip.ledger.records import Outcome

            outcome = Outcome.from_json(store.get(f".slipway/unzip/closed/{identity}.json").body)
            reasons[outcome.archive.key] = outcome.reason
    assert reasons == {
        f"{number}/result.zip": reason for number, (_, reason) in enumerate(cases.values())
    }


def test_s3_that_stays_down_gives_the_archive_back(
    s3_server: S3Server, store: S3, bucket: str, extractor: Extractor
) -> None:
    put(store, KEY, zips.standard({str(n): b"1" for n in range(30)}))
    with faulty(s3_server.url) as faults:
        through = S3(bucket, session=session(), endpoint=faults.url, attempts=2, patience_seconds=1)
        service = service_on(through, extractor)
        archive = next(iter(service.waiting(_tally())))
        faults.rate, faults.kinds = 1.0, ("slow_down",)
        assert service.process(archive) is None
    assert service_on(store, extractor).sweep().outcomes == {"published": 1}


def _tally():  # type: ignore[no-untyped-def]
    from unzip.processing.service import Tally

    return Tally()
