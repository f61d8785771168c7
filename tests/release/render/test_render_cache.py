"""Whatever Helm reads makes another render: else a test would judge another one's charts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from release.render.helm import Release
from tests.release.render_cache import made_of

FILES = {"charts/a/templates/x.yaml": "x", "charts/a/values.yaml": "v", "values/one.yaml": "1"}
ROW = Release("dev", "a", "a", "charts/a", "dev", ("values/one.yaml",), ())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("path", [*FILES, "charts/a/templates/new.yaml"])
def test_another_content_is_another_render(root: Path, path: str) -> None:
    before = made_of("helm", root, ROW, False)
    (root / path).write_text("another")
    assert made_of("helm", root, ROW, False) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, name="b"),
        lambda one: replace(one, namespace="prod"),
        lambda one: replace(one, files=("values/one.yaml", "values/one.yaml")),
    ],
)
def test_another_row_is_another_render(root: Path, change: Callable[[Release], Release]) -> None:
    assert made_of("helm", root, change(ROW), False) != made_of("helm", root, ROW, False)
    assert made_of("helm", root, ROW, True) != made_of("helm", root, ROW, False)
    assert made_of("another", root, ROW, False) != made_of("helm", root, ROW, False)
