"""No command stands in the docs that no test runs, unless it is said why."""

from __future__ import annotations

import re

from tests.documented import KINDS, ROOT, blocks, table


def test_every_block_says_what_runs_it() -> None:
    """Found: JSON with "…", a picture that does not exist, a rule whose command did nothing."""
    wrong = []
    for block in blocks():
        kinds = [kind for kind in KINDS if kind in (block.how or {})]
        if len(kinds) != 1:
            wrong.append(f"{block.identity}: one of {KINDS}, found {block.how}")
    assert wrong == []


def test_what_is_run_as_written_has_nothing_left_out() -> None:
    for block in blocks():
        if block.how and "with" in block.how:
            left_out = re.search(r"…|<[a-z]+>", block.text)
            assert not left_out, f"{block.identity}: {left_out and left_out[0]}"


def test_the_tests_that_are_named_exist() -> None:
    for block in blocks():
        if block.how and "test" in block.how:
            path, _, name = block.how["test"].partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), block.identity


def test_the_list_of_commands_is_current() -> None:
    written = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert written == table(), "run `make reference`"
