"""Every bad value is refused when it is rendered: the key is named and, by our checks, the fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.charts.rendering import ROOT, helm

INVALID = sorted((ROOT / "tests/fixtures/invalid").glob("*.yaml"))


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_bad_value_is_refused(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    chart, release = first.removeprefix("# chart: ").split(", release: ")
    reason = second.removeprefix("# refused: ")
    answer = helm(ROOT / "charts" / chart, release, "dev", [path])
    assert answer.returncode != 0, f"{path.name} rendered:\n{answer.stdout}"
    assert re.search(reason, answer.stderr), answer.stderr
