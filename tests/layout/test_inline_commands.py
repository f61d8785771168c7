"""Commands in the running text and the tables of the pages exist, with the options they show.

`tests/documented.py` collects blocks, and tests run those; what stands between backticks in a
sentence is looked up here: the subcommand, each option, the target of `make` and its variables.
"""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.documented import ROOT, blocks
from tests.members import commands

PROGRAMS = commands()
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md"))
    if page.parent.name != "reference"
)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_END = re.compile(r"\s(?:[|;<]|&&|\d?>|#)(?:\s|$)")


def wrong(text: str) -> str | None:
    """What a command of ours names that there is not; None where all of it exists."""
    words = [word.strip("[]") for word in _words(text)]
    while words and re.fullmatch(r"[A-Z][A-Z_]*=.*", words[0]):
        del words[0]
    if len(words) < 2:
        return None
    if words[0] == "make":
        return _wrong_target(words[1:])
    return _wrong_option(words) if words[0] in PROGRAMS else None


def _words(text: str) -> list[str]:
    try:
        return shlex.split(_END.split(text)[0])
    except ValueError:  # a quotation mark that is an apostrophe
        return _END.split(text)[0].split()


def _wrong_target(words: list[str]) -> str | None:
    for word in words:
        name, equals, _ = word.partition("=")
        used = (f"$({name})", f"$({name}:", f"$${{{name}:")  # the last one is the shell's
        if equals and not any(form in MAKEFILE for form in used):
            return f"make takes no variable {name}"
        if not equals and not re.fullmatch(r"…|-\w+", word):
            targets = re.findall(r"^([\w -]+):(?!=)", MAKEFILE, re.MULTILINE)
            if word not in {one for line in targets for one in line.split()}:
                return f"make has no target {word}"
    return None


@functools.cache
def _program(name: str) -> Any:
    return get_command(importlib.import_module(f"{name}.cli").app)


def _wrong_option(words: list[str]) -> str | None:
    command, path = _program(words[0]), [words[0]]
    for word in words[1:]:
        below = getattr(command, "commands", None)
        if below is not None and not word.startswith("-") and word != "…":
            if word not in below:
                return f"`{' '.join(path)}` has no command {word}"
            command = below[word]
            path.append(word)
        elif re.match(r"--?[a-z]", word):
            options = {"--help"}
            for parameter in command.params:
                options |= {*parameter.opts, *parameter.secondary_opts}
            if word.partition("=")[0] not in options:
                return f"`{' '.join(path)}` has no option {word}"
    return None


def spans(page: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each inline code of a page, blocks left out."""
    content = page.read_text(encoding="utf-8")
    content = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), content)
    for number, line in enumerate(content.splitlines(), 1):
        for found in _SPAN.finditer(line):
            yield number, found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_between_backticks_exists(page: Path) -> None:
    found = [f"{page.name}:{line}: `{text}`: {said}" for line, text in spans(page)
             if (said := wrong(text))]  # fmt: skip
    assert found == []


def test_each_command_of_a_block_exists() -> None:
    found = [f"{block.identity}: {line}: {said}" for block in blocks()
             for line in block.text.replace("\\\n", " ").splitlines()
             if (said := wrong(line))]  # fmt: skip
    assert found == []


def test_enough_commands_are_looked_at() -> None:
    """A pattern that finds nothing would let everything pass."""
    ours = [text for page in PAGES for _, text in spans(page)
            if re.match(rf"(?:{'|'.join(PROGRAMS)}|make) [a-z]", text)]  # fmt: skip
    assert len(ours) > 60


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("release verify --env dev --timeout 60", None),
        ("release verify --env dev --timeot 60", "no option --timeot"),
        ("release verfy", "no command verfy"),
        ("release registry create --image-registry …", None),
        ("release registry create --registry …", "no option --registry"),
        ("unzip run", None),
        ("CLUSTER=kind make up", None),
        ("make upp", "no target upp"),
        ("make promote FRM=dev TO=stage", "no variable FRM"),
        ("release status | grep --count x", None),
        ("proxy", None),
        ("git log --notes=verdicts", None),
    ],
)
def test_what_does_not_exist_is_named(text: str, said: str | None) -> None:
    found = wrong(text)
    assert (found is None) if said is None else (found is not None and said in found)
