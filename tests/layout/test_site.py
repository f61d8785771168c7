"""The site of the pages (`make docs`): each page has its place, and each link leads somewhere.

The generator itself is not installed here; ci runs `make docs` beside `make lint`.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.documented import ROOT

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r" *(?:[-*]|\d+\.) ")


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """docs/site.py, which is no package."""
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs/site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with four pages and a file."""
    for path, text in {
        "README.md": "# Front\n\n[flow](docs/flow.md#the-second-part) and [all](bench)\n",
        "docs/flow.md": "# Flow\n\n## The `second` part\n\n[table](../bench/table.txt)\n"
                        "```sh\n[no link](nowhere.md)\n```\n<!-- run: {not: x} -->\n",
        "docs/parts/one.md": "# One\n\n[up](../flow.md) [here](#one) [front](../../README.md)\n",
        "docs/services/ranker.md": "# Ranker\n",
        "docs/site.yaml": "repo_url: https://example.com/x\n"
                          "nav: [index.md, {All: [flow.md, One: parts/one.md]}]\n",
        "bench/table.txt": "1\n",
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    return tmp_path


def test_each_page_has_its_place_and_each_link_leads_somewhere(
    site: ModuleType, tmp_path: Path
) -> None:
    """With line and reason of all that does not; found: 4 links that only GitHub resolves."""
    written = site.stage(ROOT, tmp_path / "docs")
    assert len(list(site.listed(yaml.safe_load(written.read_text())["nav"]))) > 60


def test_links_lead_to_pages_and_else_to_the_repository(
    site: ModuleType, small: Path, tmp_path: Path
) -> None:
    written = site.stage(small, tmp_path / "out")
    pages = written.parent / "pages"
    assert "(flow.md#the-second-part)" in (pages / "index.md").read_text()
    assert "(https://example.com/x/tree/main/bench)" in (pages / "index.md").read_text()
    flow = (pages / "flow.md").read_text()
    assert "(https://example.com/x/blob/main/bench/table.txt)" in flow
    assert "[no link](nowhere.md)" in flow and "run:" not in flow
    assert (
        "(../flow.md) [here](one.md#one) [front](../index.md)"
        in (pages / "parts/one.md").read_text()
    )
    nav = yaml.safe_load(written.read_text())["nav"]
    assert nav[-1] == {"Your services": ["services/ranker.md"]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("docs/flow.md", "# F\n\n\n[x](gone.md)\n"), "docs/flow.md:4: gone.md does not exist"),
        (("docs/flow.md", "# F\n"), "docs/flow.md#the-second-part: docs/flow.md has no such"),
        (("docs/parts/one.md", "# O\n\n[x](../../../a)\n"), "docs/parts/one.md:3: ../../../a does"),
        (("docs/new.md", "# N\n"), "nav: new.md is not listed"),
        (("docs/site.yaml", "repo_url: r\nnav: [index.md, flow.md, flow.md, parts/one.md]\n"),
         "nav: flow.md is listed twice"),
        (("docs/site.yaml", "repo_url: r\nnav: [index.md, flow.md, a.md, parts/one.md]\n"),
         "nav: a.md is listed and does not exist"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    site: ModuleType, small: Path, tmp_path: Path, changed: tuple[str, str], said: str
) -> None:
    page, text = changed
    (small / page).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(said)):
        site.stage(small, tmp_path / "out")


def test_a_folder_that_is_left_from_before_is_replaced(
    site: ModuleType, small: Path, tmp_path: Path
) -> None:
    site.stage(small, tmp_path / "out")
    shutil.rmtree(small / "docs/services")
    assert not (site.stage(small, tmp_path / "out").parent / "pages/services").exists()


def test_a_list_has_an_empty_line_before_it(site: ModuleType) -> None:
    """Found: five lists were running text in the site, though not on GitHub."""
    wrong = []
    for page in site.pages(ROOT):
        text = (ROOT / page).read_text(encoding="utf-8")
        lines = ["", *_FENCE.sub(lambda block: "\n" * block[0].count("\n"), text).splitlines()]
        for number, (before, line) in enumerate(itertools.pairwise(lines), 1):
            if _ITEM.match(line) and before.strip() and not _ITEM.match(before):
                wrong.append(f"{page}:{number}: {line[:50]}")
    assert wrong == []


def test_no_message_of_a_sequence_diagram_has_a_semicolon(site: ModuleType) -> None:
    """Found: it ends a statement, so the diagram of a request was an error message."""
    wrong = [
        f"{page}: {line}"
        for page in site.pages(ROOT)
        for diagram in re.findall(
            r"```mermaid\nsequenceDiagram\n(.*?)```",
            (ROOT / page).read_text(encoding="utf-8"), re.DOTALL,
        )
        for line in diagram.splitlines() if ";" in line
    ]  # fmt: skip
    assert wrong == []
