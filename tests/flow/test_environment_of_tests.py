"""What `flow environment` sets in a shell must not reach the tests that are started from it."""

from __future__ import annotations

from tests.conftest import without_the_one_machine


def test_the_one_machines_s3_is_forgotten() -> None:
    """Found: after `eval "$(flow environment)"` thirty tests asked an S3 that was down."""
    environment = {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:7070",
        "AWS_ACCESS_KEY_ID": "slipway",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
        "HOME": "/home/ada",
    }
    without_the_one_machine(environment)
    assert environment.keys() == {"AWS_CA_BUNDLE", "HOME"}


def test_an_account_of_ones_own_stays() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_REGION": "ap-northeast-2"}
    without_the_one_machine(environment)
    assert environment == {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_REGION": "ap-northeast-2"}
