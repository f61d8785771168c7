"""Fixtures of the charts' suites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.charts.admission import ApiServer, api_server
from tests.charts.scratch import Scratch, made


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server without nodes."""
    with api_server(tmp_path_factory.mktemp("apiserver")) as running:
        yield running


@pytest.fixture(scope="session")
def scratch() -> Iterator[Scratch]:
    """A namespace of its own on the running cluster, made from the charts."""
    with made() as namespace:
        yield namespace
