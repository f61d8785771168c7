"""What somebody is told who extracts an archive by hand."""

from __future__ import annotations

import stat

from tests.s3 import S3Server
from tests.unzip import zips
from tests.unzip.commands.test_commands import unzip
from tests.unzip.support import in_memory, put
from unzip.extract import summary
from unzip.extract.extractor import Extractor
from unzip.s3.client import S3
from unzip.zip.limits import Limits

_LINK = zips.Entry(b"l", b"../a.txt", mode=stat.S_IFLNK | 0o777, method=0)
_PIPE = zips.Entry(b"p", b"", mode=stat.S_IFIFO | 0o644, method=0)
_KOREAN = zips.Entry("결과.txt".encode("cp949"), b"1", made_by=zips.DOS)


def test_extract_says_what_is_left_out_and_guessed(
    s3_server: S3Server, store: S3, bucket: str
) -> None:
    """Found: two links and a guessed name were "became 1 files, 1 bytes"."""
    put(store, "k/result.zip", zips.build(_LINK, _PIPE, _KOREAN))
    addresses = (f"s3://{bucket}/k/result.zip", f"s3://{bucket}/k/result/")
    for words in (["extract", "--dry-run", *addresses], ["extract", *addresses]):
        said = unzip(s3_server, bucket, *words).stdout
        assert "1 file, 1 byte (left out: 1 symbolic link, 1 device)" in said
        assert "read as cp949 (or" in said
        assert "UNZIP_NAME_CHARSETS" in said


def test_what_is_sure_and_whole_is_told_briefly(extractor: Extractor) -> None:
    data = zips.standard({"a.txt": b"12", "b.txt": b""})
    directory = extractor.read_directory(in_memory(data), Limits())
    assert summary.contents(directory) == "2 files, 2 bytes"
    assert summary.guess(directory.charset) == ""
