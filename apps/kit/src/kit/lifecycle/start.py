"""The first thing a command does: read its settings, and say which of them is wrong."""

from __future__ import annotations

import sys
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from kit.lifecycle import termination
from kit.lifecycle.termination import CANNOT_WORK, Reason

S = TypeVar("S", bound=BaseSettings)

LONGEST_VALUE = 80
_SHOWN = (int, float, bool)
FIX = "correct it under `env` in the release's values; the command `settings` says what it takes"


def load(settings: type[S]) -> S:
    """The settings of the environment.

    Where one is wrong the process ends with 2: each stands on a line of stderr, and all of them in
    the container's termination message. Texts are not repeated, since they may hold secrets.
    """
    wrong: list[str] = []
    try:
        return settings()
    except ValidationError as error:
        wrong = [_said(settings, problem) for problem in error.errors()]
    except SettingsError as error:
        name = next(
            (name for name in settings.model_fields if f'"{name}"' in str(error)), "settings"
        )
        wrong = [f"{variable(settings, name)}: is not JSON: {error.__cause__}"]
    return refuse(*wrong)


def refuse(*wrong: str, fix: str = FIX) -> NoReturn:
    """End with 2: these lines say which settings cannot become right."""
    sys.stderr.write("\n".join([*wrong, f"fix: {fix}"]) + "\n")
    termination.leave(Reason("; ".join(wrong), fix))
    raise SystemExit(CANNOT_WORK)


def variable(settings: type[BaseSettings], field: str) -> str:
    """The environment variable of a field."""
    found = settings.model_fields.get(field)
    alias = found.validation_alias if found is not None else None
    if isinstance(alias, str):
        return alias
    return f"{settings.model_config.get('env_prefix', '')}{field}".upper()


def _said(settings: type[BaseSettings], problem: Any) -> str:
    """One problem of pydantic's, by the variable's name; a number or a choice with its value."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message  # of several fields together: it names them itself
    field, *rest = [str(part) for part in problem["loc"]]
    where = ".".join([variable(settings, field), *rest])
    found = settings.model_fields.get(field)
    given = problem.get("input")
    shown = (
        not rest
        and found is not None
        and (found.annotation in _SHOWN or _is_choice(found.annotation))
        and isinstance(given, (str, *_SHOWN))
        and len(str(given)) <= LONGEST_VALUE
    )
    return f"{where}: {message}" + (f", got {given!r}" if shown else "")


def _is_choice(annotation: Any) -> bool:
    return bool(get_args(annotation)) and all(isinstance(one, str) for one in get_args(annotation))
