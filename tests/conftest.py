"""Fixtures for every suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, MutableMapping

import pytest
import structlog
from hypothesis import settings

# How long an example takes is the machine's matter: hypothesis' 200 ms fail on one that is busy.
settings.register_profile("slipway", deadline=None)
settings.load_profile("slipway")

# What prints tracebacks with the values of all variables takes a second where one is a body.
*_processors, _last = structlog.get_config()["processors"]
if isinstance(_last, structlog.dev.ConsoleRenderer):
    _plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*_processors, _plain])


def without_the_one_machine(environment: MutableMapping[str, str]) -> None:
    """Forget the S3 that `eval "$(flow environment)"` sets: a test asks the servers it starts.

    The SDKs prefer AWS_ENDPOINT_URL_S3 to AWS_ENDPOINT_URL, which tests set. Without it, what is
    set is somebody's own account, and stays.
    """
    if environment.pop("AWS_ENDPOINT_URL_S3", None) is not None:
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "DEFAULT_REGION"):
            environment.pop(f"AWS_{name}", None)


without_the_one_machine(os.environ)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that runs within a test sets up its logs: the next test has them as they were."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what lives to the end: the tests and all modules."""
    gc.collect()
    gc.freeze()
