"""Changes of an environment's files: what a commit breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Edit = Callable[[Path], None]


def more(path: str, text: str) -> Edit:
    """The file with more lines at its end."""

    def edit(root: Path) -> None:
        file = root / path
        file.write_text(file.read_text() + text)

    return edit


def replaced(path: str, old: str, new: str) -> Edit:
    """The file with one text instead of another."""

    def edit(root: Path) -> None:
        file = root / path
        assert old in file.read_text(), f"{path} has no {old!r}"
        file.write_text(file.read_text().replace(old, new, 1))

    return edit


def removed(*paths: str) -> Edit:
    """Without these files."""

    def edit(root: Path) -> None:
        for path in paths:
            (root / path).unlink()

    return edit


def setting(release: str, name: str, value: str) -> Edit:
    """An environment variable of a release of dev; its file has an ``env`` or gets one."""

    def edit(root: Path) -> None:
        file = root / f"values/dev/{release}.yaml"
        line, text = f"  {name}: '{value}'\n", file.read_text()
        file.write_text(
            text.replace("env:\n", f"env:\n{line}", 1)
            if "env:\n" in text
            else f"{text}env:\n{line}"
        )

    return edit


def scalar(path: str, **values: str) -> Edit:
    """A file that `release` writes, with other values; it has to have each of them already."""

    def edit(root: Path) -> None:
        file = root / path
        lines = file.read_text().splitlines()
        for key, value in values.items():
            (at,) = (n for n, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
            assert lines[at].strip() != f'{key}: ""', f"{path} has no {key}: nothing is deployed"
            indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
            lines[at] = f'{indent}{key}: "{value}"'
        file.write_text("\n".join(lines) + "\n")

    return edit


def copied(source: str, target: str) -> Edit:
    """A file with the content of another."""

    def edit(root: Path) -> None:
        (root / target).write_text((root / source).read_text())

    return edit
