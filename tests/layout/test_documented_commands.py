"""No command stands in the docs that no test runs, unless it is said why."""

from __future__ import annotations

import ast
import re

import pytest

from tests.documented import KINDS, ROOT, blocks, named_test, table


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


def source_of(path: str, name: str) -> str | None:
    """The source of a test, None where there is none of that name."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return ast.get_source_segment(text, node)
    return None


def takes(source: str, page: str) -> bool:
    """Whether a test takes a block of a page: by a call of ``documented.block``."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(
        ast.unparse(call.func).rpartition(".")[2] == "block"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value == page
        for call in calls
    )


def test_the_tests_that_are_named_exist() -> None:
    for block in blocks():
        if (named := named_test(block.how or {})) is not None:
            path, name, _ = named
            assert source_of(path, name) is not None, f"{block.identity}: there is no {name}"


def test_the_tests_that_a_reason_names_exist() -> None:
    for block in blocks():
        for path, name in re.findall(
            r"(tests/[\w/.]+\.py)(?:::(\w+))?", (block.how or {}).get("not", "")
        ):
            assert (ROOT / path).exists(), f"{block.identity}: there is no {path}"
            assert not name or source_of(path, name), f"{block.identity}: there is no {name}"


def test_the_tests_that_are_said_to_run_a_block_take_its_text() -> None:
    """Found: tests that never saw the block they were named for, so it could rot."""
    wrong = []
    for block in blocks():
        if block.how and "test" in block.how:
            path, name, _ = named_test(block.how) or ("", "", "")
            page = str(block.page.relative_to(ROOT))
            if not takes(source_of(path, name) or "", page):
                wrong.append(f'{block.identity}: {name} has no call of block("{page}", …): take '
                             "the text with it, or say `seen` or `not`")  # fmt: skip
    assert wrong == []


def test_what_is_seen_elsewhere_says_what_that_proves() -> None:
    for block in blocks():
        if block.how and "seen" in block.how:
            _, _, proves = named_test(block.how) or ("", "", "")
            assert proves, f"{block.identity}: seen: tests/x.py::test_y: what it proves"


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ('def test_x():\n    run(documented.block("docs/a.md", containing="x").text)', True),
        ('def test_x():\n    run(block("docs/a.md", containing="x").text)', True),
        ('def test_x():\n    run(block("docs/b.md", containing="x").text)', False),
        ('def test_x():\n    """Runs the block("docs/a.md")."""', False),
    ],
)
def test_a_call_is_told_from_a_mention(source: str, taken: bool) -> None:
    assert takes(source, "docs/a.md") is taken


def test_the_list_of_commands_is_current() -> None:
    written = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    assert written == table(), "run `make reference`"
