"""How others take a zip in S3 apart; run in an environment of their own, as a script.

    python rivals.py NAME BUCKET KEY PREFIX SCRATCH

Each does what its users write: no checks beyond what its libraries make, no manifest.
"""

from __future__ import annotations

import mimetypes
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import boto3


def _type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def lambda_way(bucket: str, key: str, prefix: str, scratch: Path) -> None:
    """The usual Lambda: download, `zipfile`, `put_object` one by one."""
    s3 = boto3.client("s3")
    path = scratch / "archive.zip"
    s3.download_file(bucket, key, str(path))
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            with archive.open(info) as member:
                name = prefix + info.filename
                if info.file_size > 64 << 20:  # put_object would hold all of it
                    s3.upload_fileobj(member, bucket, name)
                else:
                    s3.put_object(
                        Bucket=bucket, Key=name, Body=member.read(), ContentType=_type(name)
                    )


def stream_unzip_way(bucket: str, key: str, prefix: str, scratch: Path) -> None:
    """`stream-unzip`: one pass from the front, without the directory."""
    from stream_unzip import stream_unzip

    s3 = boto3.client("s3")
    body = s3.get_object(Bucket=bucket, Key=key)["Body"]

    class Chunks:
        """A file whose bytes come from an iterator."""

        def __init__(self, chunks: Any) -> None:
            self._chunks = iter(chunks)
            self._rest = b""

        def read(self, size: int = -1) -> bytes:
            parts, length = [self._rest], len(self._rest)
            while size < 0 or length < size:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                parts.append(chunk)
                length += len(chunk)
            data = b"".join(parts)
            if size < 0:
                size = len(data)
            self._rest = data[size:]
            return data[:size]

    for raw, size, chunks in stream_unzip(body.iter_chunks(1 << 20), chunk_size=1 << 20):
        name = prefix + raw.decode()
        if size is None or size > 64 << 20:
            s3.upload_fileobj(Chunks(chunks), bucket, name)
        else:
            data = b"".join(chunks)
            s3.put_object(Bucket=bucket, Key=name, Body=data, ContentType=_type(name))


def smart_open_way(bucket: str, key: str, prefix: str, scratch: Path) -> None:
    """`smart_open` as the file under `zipfile`."""
    import smart_open

    s3 = boto3.client("s3")
    source = smart_open.open(f"s3://{bucket}/{key}", "rb", transport_params={"client": s3})
    with source, zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = prefix + info.filename
            with archive.open(info) as member:
                if info.file_size > 64 << 20:
                    s3.upload_fileobj(member, bucket, name)
                else:
                    s3.put_object(
                        Bucket=bucket, Key=name, Body=member.read(), ContentType=_type(name)
                    )


def _s5cmd() -> str:
    return str(Path(sys.executable).parent / "s5cmd")


def _up(folder: Path, bucket: str, prefix: str) -> None:
    subprocess.run(
        [_s5cmd(), "--log", "error", "cp", f"{folder}/", f"s3://{bucket}/{prefix}"], check=True
    )


def bsdtar_way(bucket: str, key: str, prefix: str, scratch: Path) -> None:
    """`s5cmd` down, `bsdtar` apart, `s5cmd` up."""
    archive, folder = scratch / "archive.zip", scratch / "files"
    folder.mkdir()
    subprocess.run(
        [_s5cmd(), "--log", "error", "cp", f"s3://{bucket}/{key}", str(archive)], check=True
    )
    subprocess.run(["bsdtar", "-xf", str(archive), "-C", str(folder)], check=True)
    _up(folder, bucket, prefix)


def unzip_way(bucket: str, key: str, prefix: str, scratch: Path) -> None:
    """`s5cmd` down, Info-ZIP apart, `s5cmd` up."""
    archive, folder = scratch / "archive.zip", scratch / "files"
    folder.mkdir()
    subprocess.run(
        [_s5cmd(), "--log", "error", "cp", f"s3://{bucket}/{key}", str(archive)], check=True
    )
    subprocess.run(["/usr/bin/unzip", "-q", str(archive), "-d", str(folder)], check=True)
    _up(folder, bucket, prefix)


def upload_alone(bucket: str, key: str, prefix: str, scratch: Path) -> None:
    """Not a rival but the ceiling: `s5cmd` uploading files that are already extracted."""
    _up(scratch.parent / "extracted" / Path(key).parent.name, bucket, prefix)


WAYS = {
    "lambda": lambda_way,
    "stream-unzip": stream_unzip_way,
    "smart_open": smart_open_way,
    "bsdtar+s5cmd": bsdtar_way,
    "unzip+s5cmd": unzip_way,
    "s5cmd alone": upload_alone,
}

if __name__ == "__main__":
    name, bucket, key, prefix, place = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        WAYS[name](bucket, key, prefix, Path(scratch))
        shutil.rmtree(scratch, ignore_errors=True)
        Path(scratch).mkdir(exist_ok=True)
