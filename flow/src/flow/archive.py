"""The main job, second half: a real zip goes to S3 and comes out as files."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client
from PIL import Image, ImageDraw

from flow.errors import FlowError
from trainer import digits

KOREAN = ("보고서", "사진", "로그", "결과")
MEMBERS = 240


@dataclass(frozen=True, slots=True)
class Arrived:
    """An object that the extractor published."""

    path: str
    size: int
    content_type: str


def make_zip(user_id: str) -> bytes:
    """A zip of 240 files: text and images, nested folders, Korean and other UTF-8 names."""
    _, held_out = digits.split()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(MEMBERS):
            folder = f"{KOREAN[number % 4]}/{number % 12:02d}"
            kind = number % 6
            if kind == 0:
                row = held_out.pixels[number]
                name = f"{folder}/숫자-{number}-{held_out.labels[number]}.png"
                archive.writestr(name, digits.png(row))
            elif kind == 1:
                archive.writestr(f"{folder}/메모 {number}.txt", f"{user_id}의 {number}번째 메모\n")
            elif kind == 2:
                rows = "".join(f"{i},{i * i}\n" for i in range(50))
                archive.writestr(f"{folder}/mesures-été-{number}.csv", f"n,carré\n{rows}")
            elif kind == 3:
                body = json.dumps({"user": user_id, "n": number, "이름": "슬립웨이"})
                archive.writestr(f"{folder}/data-{number}.json", body)
            elif kind == 4:
                archive.writestr(f"{folder}/photo-{number}.jpg", _picture(number))
            else:
                archive.writestr(f"{folder}/run-{number}.log", "started\nfinished ✓\n" * 40)
    return content.getvalue()


def put(s3: S3Client, bucket: str, user_id: str, archive: bytes) -> str:
    """Upload the zip where the extractor looks for it; return its ETag."""
    answer = s3.put_object(Bucket=bucket, Key=f"{user_id}/result.zip", Body=archive)
    return answer["ETag"].strip('"')


def wait(
    s3: S3Client, bucket: str, user_id: str, etag: str, *, timeout: float, why: Callable[[], str]
) -> list[Arrived]:
    """Wait for the manifest of this very archive, then read what arrived off S3.

    FlowError with ``why()`` when it does not come in ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        manifest = _manifest(s3, bucket, f"{user_id}/result/_manifest.json")
        if etag in json.dumps(manifest):
            break
        if time.monotonic() > deadline:
            raise FlowError(
                f"s3://{bucket}/{user_id}/result.zip was not extracted in {timeout:.0f} s: {why()}"
            )
        time.sleep(0.25)
    found = []
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{user_id}/result/")
    for page in pages:
        for item in page.get("Contents", []):
            head = s3.head_object(Bucket=bucket, Key=item["Key"])
            path = item["Key"].removeprefix(f"{user_id}/result/")
            if path != "_manifest.json":
                found.append(Arrived(path, head["ContentLength"], head["ContentType"]))
    return found


def _manifest(s3: S3Client, bucket: str, key: str) -> dict[str, Any]:
    try:
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"].get("Code") in ("NoSuchKey", "404"):
            return {}
        raise
    found: dict[str, Any] = json.loads(body)
    return found


def _picture(number: int) -> bytes:
    picture = Image.new("RGB", (96, 64), (number % 256, 120, 200))
    ImageDraw.Draw(picture).ellipse((8, 8, 56, 56), fill=(255, 220, number * 3 % 256))
    content = io.BytesIO()
    picture.save(content, format="JPEG")
    return content.getvalue()
