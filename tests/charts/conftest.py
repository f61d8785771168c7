"""Fixtures of the charts' suites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.charts.admission import ApiServer, api_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server without nodes."""
    with api_server(tmp_path_factory.mktemp("apiserver")) as running:
        yield running
