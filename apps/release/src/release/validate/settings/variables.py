"""Environment variables that are settings of a service: known, of their type, and enough to start.

The services' own references (docs/reference/settings-*.json) say what there is.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from release.render import merged_values
from release.render.helm import Release
from release.validate.environment import Environment
from release.validate.findings import Finding, at_value
from release.validate.settings import agreement, nested, service_settings
from release.validate.workloads import secret_names
from release.values import locations

# Read by libraries inside the services rather than by their settings.
_LIBRARY_VARIABLES = ("AWS_", "OTEL_", "OMP_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
                      "PYTHON", "TZ", "MLFLOW_")  # fmt: skip
_BOOLEANS = {"true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n"}

Settings = Mapping[str, Mapping[str, "Setting"]]


@dataclass(frozen=True)
class Setting:
    """One row of a service's settings reference."""

    name: str
    type: str
    required: bool = False
    needed_by: tuple[str, ...] = ()
    """Commands of the image that do not start without it."""
    shared: bool = False
    """Whether all releases of the image in an environment must have the same."""
    limits: Mapping[str, float] | None = None
    schema: Mapping[str, Any] | None = None
    """JSON Schema of a value that is JSON."""
    default: Any = None


def read(root: Path) -> tuple[dict[str, dict[str, Setting]], list[str]]:
    """Each service's settings by name, and a note where there are none to check against."""
    found: dict[str, dict[str, Setting]] = {}
    for path in sorted((root / "docs" / "reference").glob("settings-*.json")):
        rows = json.loads(path.read_text())
        listed = rows if isinstance(rows, list) else rows.get("settings", [])
        found[path.stem.removeprefix("settings-")] = {row["name"]: _setting(row) for row in listed}
    if found:
        return found, []
    return {}, ["docs/reference has no settings-*.json: environment keys were not checked."]


def _setting(row: Mapping[str, Any]) -> Setting:
    return Setting(
        row["name"],
        str(row.get("type", "string")),
        bool(row.get("required")),
        tuple(row.get("needed_by", ())),
        bool(row.get("shared")),
        row.get("limits"),
        row.get("schema"),
        row.get("default"),
    )


def findings(environment: Environment, settings: Settings) -> Iterator[Finding]:
    """Of every release that runs a service whose settings are known."""
    for release in environment.documents:
        known = settings.get(app_of(release))
        if release.chart == "service" and known is not None:
            yield from _unknown(environment.root, release, known)
            wrong = list(_of_wrong_type(environment.root, release, known))
            yield from wrong
            # What a Secret holds is not in the tree.
            complete = not secret_names.with_settings(environment, release)
            flagged = {one.key.removeprefix("env.").split(".")[0] for one in wrong}
            yield from _refused(environment.root, release, known, flagged, complete)
            if complete:
                yield from _absent(environment.root, release, known)
            prefix = f"{app_of(release).upper()}_"
            yield from agreement.findings(environment.root, release, prefix, known)


def app_of(release: Release) -> str:
    """The service whose image a release runs."""
    return release.service


def _unknown(root: Path, release: Release, known: Mapping[str, Setting]) -> Iterator[Finding]:
    """Environment keys are fields of the service's settings."""
    app = app_of(release)
    for path in release.files:
        variables = merged_values.read(root / path).get("env")
        for key in variables if isinstance(variables, dict) else ():
            name = str(key).split("__", 1)[0]
            if name in known or str(key).startswith(_LIBRARY_VARIABLES):
                continue
            near = difflib.get_close_matches(str(key), sorted(known), n=1)
            fix = f"did you mean {near[0]}?" if near else f"see docs/reference/settings-{app}.md"
            line = locations.line_of((root / path).read_text(), ("env", str(key))) or 0
            yield Finding(path, line, f"env.{key}", f"is no setting of {app}", fix, (str(release),))


def _of_wrong_type(root: Path, release: Release, known: Mapping[str, Setting]) -> Iterator[Finding]:
    app = app_of(release)
    for name, text in merged_values.environment(merged_values.of_files(root, release)).items():
        setting = known.get(name)
        if setting is None:
            continue
        wrong = refusal(setting, text)
        if wrong:
            yield at_value(
                root, release, f"env.{name}", f"is {_shown(text)}, {wrong}",
                f"see docs/reference/settings-{app}.md", ("env", name),
            )  # fmt: skip
        elif setting.schema is not None:
            for one in nested.complaints(setting.schema, json.loads(text)):
                where = f"{one.where}: " if one.where else ""
                fix = one.fix or f"see docs/reference/settings-{app}.md"
                yield at_value(
                    root, release, f"env.{name}", f"{where}{one.message}", fix,
                    ("env", name, *one.path), ("env", name),
                )  # fmt: skip


def _refused(
    root: Path, release: Release, known: Mapping[str, Setting], flagged: set[str], complete: bool
) -> Iterator[Finding]:
    """What the service's own code refuses of values that have the right types.

    Unless its settings are ``complete``, only what a single one of them is can be judged.
    """
    app = app_of(release)
    every = merged_values.environment(merged_values.of_files(root, release))
    given = {name: text for name, text in every.items() if name not in flagged}
    for one in service_settings.refusals(app, known, given):
        variable = one.variable
        if not variable:
            if flagged or not complete:
                continue
            variable = service_settings.named_in(one.message, given)
        text = given.get(variable, "")
        shown = f"is {_shown(text)}: " if text[:1] not in ("{", "[") else ""
        yield at_value(
            root, release, f"env.{variable}".rstrip("."), f"{shown}{one.message}",
            f"see docs/reference/settings-{app}.md", ("env", variable),
        )  # fmt: skip


def refusal(setting: Setting, text: str) -> str:
    """Why an image does not start with this text for a setting; empty when it does."""
    kinds = setting.type.split(" or ")
    if "null" in kinds and text.strip() == "null":
        return ""
    reasons = [_refused_as(kind, setting, text) for kind in kinds if kind != "null"]
    return "" if not reasons or "" in reasons else reasons[0]


def _refused_as(kind: str, setting: Setting, text: str) -> str:
    stripped = text.strip()
    if kind in ("integer", "number"):
        try:
            number = float(stripped)
        except ValueError:
            return f"and it takes {'an integer' if kind == 'integer' else 'a number'}"
        if kind == "integer" and not number.is_integer():
            return "and it takes an integer"
        return _beyond(number, setting.limits or {})
    if kind == "boolean":
        return "" if stripped.lower() in _BOOLEANS else "and it takes true or false"
    if kind.startswith("one of "):
        choices = re.findall(r"`([^`]+)`", kind)
        return "" if text in choices else f"and it takes one of {', '.join(choices)}"
    if kind.startswith("JSON"):
        try:
            value = json.loads(text)
        except ValueError as error:
            return f"which is no JSON ({error})"
        if kind == "JSON list":
            return "" if isinstance(value, list) else "and it takes a JSON list"
        return "" if isinstance(value, dict) else "and it takes a JSON object"
    return ""


def _beyond(number: float, limits: Mapping[str, float]) -> str:
    checks = {
        "minimum": (number >= limits.get("minimum", number), "at least"),
        "maximum": (number <= limits.get("maximum", number), "at most"),
        "exclusiveMinimum": (number > limits.get("exclusiveMinimum", number - 1), "more than"),
        "exclusiveMaximum": (number < limits.get("exclusiveMaximum", number + 1), "less than"),
    }
    for name, (fits, word) in checks.items():
        if not fits:
            return f"and it must be {word} {limits[name]:g}"
    return ""


def _absent(root: Path, release: Release, known: Mapping[str, Setting]) -> Iterator[Finding]:
    """Without which the image ends as soon as it has started."""
    every = merged_values.with_defaults(root, release)
    given = merged_values.environment(every)
    command = next(iter(every.get("args") or ()), "")
    nested = {name.split("__", 1)[0] for name in given}
    for setting in known.values():
        needed = setting.required or command in setting.needed_by
        if needed and not given.get(setting.name) and setting.name not in nested - set(given):
            app = app_of(release)
            yield at_value(
                root, release, f"env.{setting.name}",
                f"is set by no file ({', '.join(release.files)}), and {app} {command} does not "
                "start without it", f"set env.{setting.name} in values/{release.environment}/"
                f"{release.name}.yaml",
            )  # fmt: skip


def differences(environment: Environment, settings: Settings) -> Iterator[Finding]:
    """Releases of one image that take each other's work need the same view of it."""
    for release in environment.documents:
        of = release.of
        other = next((r for r in environment.documents if r.name == of), None)
        if other is None or of not in settings:
            continue
        mine = merged_values.environment(merged_values.of_files(environment.root, release))
        its = merged_values.environment(merged_values.of_files(environment.root, other))
        for name, setting in settings[of].items():
            if not setting.shared or _same(mine.get(name), its.get(name)):
                continue
            yield at_value(
                environment.root, release, f"env.{name}",
                f"differs from that of {other.name}, which shares its work: {_shown(mine[name])} "
                f"here, {_shown(its[name])} there" if mine.get(name) and its.get(name)
                else f"is set for {(other if its.get(name) else release).name} and not for "
                f"{(release if its.get(name) else other).name}, which shares its work",
                "set the same for both", ("env", name),
            )  # fmt: skip


def _same(one: str | None, other: str | None) -> bool:
    return merged_values.parsed(one or "") == merged_values.parsed(other or "")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
