"""The generated reference, and what documentation promises."""

from __future__ import annotations

import re
from pathlib import Path

from release.errors import Exit, ReleaseError
from release.reference import generate

ROOT = Path(__file__).resolve().parents[3]


def test_the_reference_is_up_to_date() -> None:
    written = (ROOT / "docs/reference/release.md").read_text()
    assert written == generate(), "run `python -m release.reference > docs/reference/release.md`"


def test_every_option_and_command_is_described() -> None:
    for line in generate().splitlines():
        if line.startswith("| `"):
            _, option, meaning, *_ = (cell.strip() for cell in line.split("|"))
            assert meaning, option


def test_every_error_has_its_own_exit_code_and_sentence() -> None:
    def below(kind: type[ReleaseError]) -> list[type[ReleaseError]]:
        return [kind, *(e for one in kind.__subclasses__() for e in below(one))]

    for kind in below(ReleaseError):
        assert kind.__doc__
        assert kind.exit in Exit
        assert str(kind("It is broken.", fix="mend it")) == "It is broken. Fix: mend it"


def test_commands_in_the_guide_exist() -> None:
    guide = (ROOT / "docs/release.md").read_text()
    reference = generate()
    for match in re.findall(r"`release ([a-z]+(?: (?:set|parse))?)", guide):
        assert f"## release {match}" in reference, match
    for option in re.findall(r"`(--[a-z-]+)", guide):
        assert f"`{option}`" in reference, option


def test_every_command_has_json_and_a_dry_run() -> None:
    """Found: verify and comment had none, and some could not be asked for it."""
    for section in generate().split("\n## release ")[1:]:
        for option in ("--json", "--dry-run"):
            assert f"| `{option}` |" in section, section.splitlines()[0]
