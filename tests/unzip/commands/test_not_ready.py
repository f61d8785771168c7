"""A run or a pod of `unzip` that cannot work says why in its log and its termination message."""

from __future__ import annotations

import json
from pathlib import Path

from tests.pods import NOBODY, Ended, run_to_its_end
from tests.s3 import S3Server


def storage_failed(ended: Ended) -> dict[str, str]:
    lines = [json.loads(line) for line in ended.log.splitlines() if line.startswith("{")]
    found: dict[str, str] = next(line for line in lines if line["message"] == "storage failed")
    return found


def test_s3_that_does_not_answer(tmp_path: Path, s3_server: S3Server) -> None:
    settings = s3_server.environment() | {"AWS_ENDPOINT_URL_S3": f"http://{NOBODY}"}
    settings |= {"UNZIP_BUCKET": "uploads", "UNZIP_REQUEST_ATTEMPTS": "2"}
    for command in ("run", "watch"):
        ended = run_to_its_end(tmp_path, "unzip", command, **settings)
        assert ended.code == 1
        assert ended.message.text.startswith("bucket 'uploads' cannot be used: ")
        assert NOBODY in ended.message.text
        assert "AWS_ENDPOINT_URL_S3" in ended.message.fix
        assert storage_failed(ended)["fix"] == ended.message.fix


def test_a_bucket_that_is_not_there(tmp_path: Path, s3_server: S3Server) -> None:
    settings = s3_server.environment() | {"UNZIP_BUCKET": "nowhere"}
    ended = run_to_its_end(tmp_path, "unzip", "run", **settings)
    assert ended.code == 1
    assert ended.message.text.startswith("bucket 'nowhere' cannot be used: NoSuchBucket ")
    assert ended.message.fix == "create the bucket, or correct UNZIP_BUCKET"


def test_keys_that_are_refused(tmp_path: Path, s3_server: S3Server, bucket: str) -> None:
    settings = s3_server.environment() | {"UNZIP_BUCKET": bucket}
    ended = run_to_its_end(
        tmp_path, "unzip", "run", **settings | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    )
    assert ended.code == 1
    assert ended.message.text.startswith(f"bucket {bucket!r} cannot be used: SignatureDoesNotMatch")
    assert "keys or a role" in ended.message.fix


def test_no_keys_at_all(tmp_path: Path) -> None:
    none = {
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": "",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }  # fmt: skip
    ended = run_to_its_end(tmp_path, "unzip", "run", **none)
    assert ended.code == 2
    assert ended.message.text == "no keys for S3: none were found"
    assert "AWS_ACCESS_KEY_ID" in ended.message.fix


def test_a_setting_that_can_never_be_right(tmp_path: Path) -> None:
    ended = run_to_its_end(tmp_path, "unzip", "watch", UNZIP_WRITERS="many")
    assert ended.code == 2
    assert ended.message.text.startswith("UNZIP_WRITERS: ")
    assert ended.message.text.endswith("got 'many'")
