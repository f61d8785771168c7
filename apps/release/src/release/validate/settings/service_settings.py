"""Values as the services' own settings take them, where the services are installed beside this.

The reference (docs/reference/settings-*.json) says types and limits; what the code of a service
refuses besides (a URL without a scheme, names that must agree) only the code knows.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

from pydantic import ValidationError

from kit.settings import ServiceSettings, environment_variables, from_variables


@dataclass(frozen=True)
class Refusal:
    """A variable that a service refuses, empty for how several go together, and why."""

    variable: str
    message: str


@cache
def settings_of(app: str) -> type[ServiceSettings] | None:
    """The settings class of a service; None where the service is not installed."""
    try:
        module = importlib.import_module(f"{app}.settings")
    except ImportError:
        return None
    for one in vars(module).values():
        own = isinstance(one, type) and one.__module__ == module.__name__
        if own and issubclass(one, ServiceSettings):
            return cast("type[ServiceSettings]", one)
    return None


def refusals(app: str, known: Collection[str], given: Mapping[str, str]) -> Iterator[Refusal]:
    """What the service says of these variables, the process's own ones left out.

    ``known`` are the variables of the tree's reference: a service of another version than the
    tree's is not asked. A variable that is missing is no refusal.
    """
    settings = settings_of(app)
    if settings is None:
        return
    rows = environment_variables(settings)
    if {row["name"] for row in rows} != set(known):
        return
    names = {_field(settings, row["name"]): row["name"] for row in rows}
    try:
        from_variables(settings, given)
    except ValidationError as error:
        for one in error.errors():
            if one["type"] == "missing":
                continue
            first, *rest = (str(part) for part in one["loc"]) if one["loc"] else ("",)
            where = f"{'.'.join(rest)}: " if rest else ""
            message = str(one["msg"]).removeprefix("Value error, ")
            yield Refusal(names.get(first, first), f"{where}{message}")
    except ValueError as error:
        yield Refusal("", str(error))


def named_in(message: str, given: Collection[str]) -> str:
    """The variable that a message names; empty where it names none of those given."""
    return next((one for one in re.findall(r"\b[A-Z][A-Z0-9_]+\b", message) if one in given), "")


def _field(settings: type[ServiceSettings], variable: str) -> str:
    prefix = str(settings.model_config.get("env_prefix", ""))
    name = variable.removeprefix(prefix).lower() if variable.startswith(prefix) else variable
    return name if name in settings.model_fields else variable
