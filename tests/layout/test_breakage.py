"""tests.breakage: the table it writes, and that its ways fit the files that they change."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.breakage.report import Said, row, written
from tests.breakage.ways import MORE, WAYS, Way

ROOT = Path(__file__).resolve().parents[2]
PAGE = "before\n<!-- breakage: begin -->\n<!-- breakage: end -->\nafter\n"


def test_there_are_two_ways_of_each_kind_one_of_them_a_stranger_s() -> None:
    assert len(WAYS) == 24
    assert set(Counter(way.kind for way in WAYS).values()) == {2}
    assert Counter(way.kind for way in WAYS if way.stranger) == Counter(
        dict.fromkeys((way.kind for way in WAYS), 1)
    )


@pytest.mark.parametrize(
    "way", [way for way in (*WAYS, *MORE) if way.edit is not None], ids=lambda way: way.what
)
def test_a_way_changes_what_is_deployed(way: Way, tmp_path: Path) -> None:
    """Found: two ways changed files that had nothing in them, which proved nothing."""
    shutil.copytree(ROOT / "values", tmp_path / "values")
    for name in ("inference", "proxy"):
        image = f'image:\n  repository: "r/{name}"\n  tag: "1"\n  digest: "sha256:{name}"\n'
        (tmp_path / f"values/dev/{name}.image.yaml").write_text(image)
    model = 'models:\n  m:\n    version: "1"\n    uri: "s3://models/m/1"\n    sha256: "0"\n'
    (tmp_path / "values/dev/inference.models.yaml").write_text(model)
    before = {path: path.read_text() for path in tmp_path.rglob("*.yaml")}
    assert way.edit is not None
    way.edit(tmp_path)
    assert {path: path.read_text() for path in tmp_path.rglob("*.yaml")} != before


def test_a_row_that_was_not_run_stays_as_it_was() -> None:
    said = {"verify": Said(False, "no | route", 4.2), "status": Said(True, "", 9)}
    first, second = WAYS[:2]
    page = written(PAGE, (first, second), {first: row(first, said)})
    assert f"| {first.kind} | {first.what} |  | no \\| route (4 s) | green (9 s) |\n" in page
    assert f"| {second.kind} | {second.what} | not run | | |\n" in page
    again = written(page, (first, second), {second: row(second, said)})
    assert f"| {first.kind} | {first.what} |  | no \\| route (4 s) | green (9 s) |\n" in again
    assert f"| {second.what} (stranger's) |" in again
    assert again.startswith("before\n") and again.endswith("\nafter\n")
