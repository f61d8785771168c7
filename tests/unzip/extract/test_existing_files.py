"""What is known of the objects that an earlier version left."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from unzip.extract.existing_files import ETags

_MD5 = st.from_regex(r'"[0-9a-f]{32}"', fullmatch=True)
_OTHERS = st.sampled_from(["", f'"{"0" * 32}"', f'"{"a" * 32}-2"', f'"{"A" * 32}"', '"x"'])


@given(st.lists(_MD5 | _OTHERS, max_size=20))
def test_etags_come_back_as_they_were(etags: list[str]) -> None:
    found = ETags(len(etags))
    assert list(found) == [""] * len(etags)
    for index, etag in enumerate(etags):
        found[index] = etag
    assert list(found) == etags
    assert found[-3:] == etags[-3:]


def test_a_hundred_thousand_etags_take_little_memory() -> None:
    """Found: as text they took the directory of the longest names above 256 MiB."""
    found = ETags(100_000)
    for index in range(100_000):
        found[index] = f'"{index:032x}"'
    assert sys.getsizeof(found._digests) + sys.getsizeof(found._others) < 1_700_000
