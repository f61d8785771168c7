"""`make test-steady`: it tells what failed, and fails then."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import steady
from tests.documented import block

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = """\
FAILED tests/a/test_b.py::test_c[x] - AssertionError: no
ERROR tests/a/test_d.py::test_e - OSError
ERROR tests/a/test_d.py::test_e - OSError
2 failed, 7 passed, 1 skipped, 1 error in 3.21s
"""


def test_the_outcome_names_what_did_not_pass() -> None:
    found = steady.read_outcome("busy", "2", 1, OUTPUT, 3.2)
    assert found.passed == 7
    assert found.not_passed == ("tests/a/test_b.py::test_c[x]", "tests/a/test_d.py::test_e")
    assert found.row().startswith("| busy | 2 | 7 | tests/a/test_b.py::test_c[x]<br>tests/a/")


@pytest.mark.parametrize(
    ("code", "output", "expected"),
    [
        (0, "========= 5 passed, 2 deselected in 61.09s (0:01:01) =========\n", (5, ())),
        (5, "3 deselected in 0.11s\n", (0, ())),
        (137, "..", (0, ("pytest ended with 137",))),
        (2, "INTERNALERROR> boom\n", (0, ("pytest ended with 2",))),
    ],
)
def test_an_outcome_without_a_failed_test(
    code: int, output: str, expected: tuple[int, tuple[str, ...]]
) -> None:
    found = steady.read_outcome("idle", "1", code, output, 1.0)
    assert (found.passed, found.not_passed) == expected


def test_each_mode_has_its_command() -> None:
    commands = {mode.name: steady.command(mode, ["t"], [], 7) for mode in steady.MODES}
    assert "--random-order-seed=7" in commands["random"]
    assert commands["one-core"][0] == "taskset"
    assert all(words[-1] == "t" for words in commands.values())
    files = [run for run, _ in steady.runs_of(steady.MODES[3], 1, ["tests/layout"], [], 7)]
    assert "1 tests/layout/test_steady.py" in files


def test_a_mode_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        steady.parse(["--modes=idle,buzy"])
    assert "buzy is none of idle, busy" in capsys.readouterr().err


def test_the_documented_arguments_are_taken() -> None:
    shown = block("docs/testing.md", containing="make test-steady ARGS").text
    commands = re.findall(r'^make test-steady ARGS="(.*)"$', shown, re.MULTILINE)
    assert len(commands) == len(shown.splitlines())
    for command in commands:
        for target in steady.parse(shlex.split(command)).targets:
            assert (ROOT / target).exists(), target


def test_one_failure_fails_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.steady", "--modes=one-core", "--runs=1"),
            *(f"--logs={tmp_path / 'logs'}", str(tmp_path / "test_it.py")),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "| one-core | 1 | 1 |" in done.stdout
    assert "test_it.py::test_bad" in done.stdout
    assert "0 of 1 runs passed." in done.stdout
    assert "test_bad" in (tmp_path / "logs" / "one-core-1.log").read_text()
