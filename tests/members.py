"""The members of the workspace, read from its folders: nothing lists them by hand."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from kit.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Member:
    """A package of the workspace; ``commands`` are its scripts with the module of each."""

    name: str
    folder: Path
    commands: dict[str, str]


def members() -> Iterator[Member]:
    """Every package that has a pyproject.toml, by name."""
    for path in sorted([*ROOT.glob("apps/*/pyproject.toml"), *ROOT.glob("*/pyproject.toml")]):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        scripts = project.get("scripts", {})
        found = {name: target.partition(":")[0] for name, target in scripts.items()}
        yield Member(path.parent.name, path.parent, found)


def commands() -> dict[str, typer.Typer]:
    """The command lines that are made with typer, by name; others' are their own business."""
    found = {}
    for member in members():
        for name, module in member.commands.items():
            app = getattr(importlib.import_module(module), "app", None)
            if isinstance(app, typer.Typer):
                found[name] = app
    return dict(sorted(found.items()))


def module_of(command: str) -> str:
    """The module of a command line, like ``proxy.cli``."""
    return next(one.commands[command] for one in members() if command in one.commands)


def settings_of(service: str) -> type[ServiceSettings] | None:
    """The settings class of a service in apps/; None where it has none of ours."""
    module = f"{service.replace('-', '_')}.settings"
    if not list(ROOT.glob(f"apps/{service}/src/{module.replace('.', '/')}.py")):
        return None
    for _, one in inspect.getmembers(importlib.import_module(module), inspect.isclass):
        if issubclass(one, ServiceSettings) and one.__module__ == module:
            return one
    return None


def services() -> list[str]:
    """Members of apps/ whose command prints a settings reference."""
    return [name for name in commands() if settings_of(name) is not None]
