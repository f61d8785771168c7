"""What the pages name exists: files of the repository and settings of the services."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tests.documented import ROOT

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if page.parent.name != "reference" and page.name != "CHANGELOG.md"  # it names what is gone
)
FOLDERS = "apps|argocd|bench|charts|cluster|docs|flow|tests|values|\\.github"
# Names of examples and of optional files: what a reader makes, by the commands of the page.
EXAMPLES = ("fraud-scorer", "qa", "page", "inference-challenger", "promotion", "hold")
# Arguments of builds, which are no settings of a service.
ARGUMENTS = {"INFERENCE_IMAGE"}
_PATH = re.compile(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*\w)(?![\w/.-]*[\w<*{{])")
_SETTING = re.compile(r"\b(?:PROXY|INFERENCE|UNZIP)_[A-Z0-9_]*[A-Z0-9]\b(?!_)")


def missing_path(line: str) -> Iterator[str]:
    """Files that the inline code of a line names and that do not exist."""
    for code in re.findall(r"`([^`\n]+)`", line):
        for path in _PATH.findall(code):
            example = set(re.split(r"[/.]", path)) & set(EXAMPLES)
            if not example and not (ROOT / path).exists():
                yield path


def unknown_setting(line: str) -> Iterator[str]:
    """Settings that a line names and that no service has."""
    for name in _SETTING.findall(line):
        if name not in settings() | ARGUMENTS:
            yield name


def settings() -> set[str]:
    """Every setting of the references, which are made from the code."""
    texts = (path.read_text("utf-8") for path in (ROOT / "docs/reference").glob("settings-*.json"))
    return {name for text in texts for name in re.findall(r'"([A-Z]+_[A-Z0-9_]+)"', text)}


def wrong(look: Callable[[str], Iterator[str]]) -> list[str]:
    """Page, line and name of all that a look finds."""
    return [
        f"{page.relative_to(ROOT)}:{number}: {name}"
        for page in PAGES
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        for name in look(line)
    ]


def test_each_file_that_a_page_names_exists() -> None:
    """Found: `flow/stages.py`, and names of packages that had moved."""
    assert wrong(missing_path) == []


def test_each_setting_that_a_page_names_exists() -> None:
    assert wrong(unknown_setting) == []


def test_what_does_not_exist_is_found() -> None:
    assert list(missing_path("see `tests/gone.py`, `tests/layout` and tests/other.py")) == [
        "tests/gone.py"
    ]
    assert list(missing_path("`values/<env>/x.yaml` `values/services/<name>/` `values/qa`")) == []
    assert list(unknown_setting("`PROXY_REDIS_URL`, `PROXY_REDIS_ULR`, PROXY_JOBS")) == [
        "PROXY_REDIS_ULR"
    ]
