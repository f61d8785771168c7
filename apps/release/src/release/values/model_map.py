"""The models of a release: ``values/<env>/<release>.models.yaml``, a map by name. Pure.

Only `release` writes it: an entry is added, changed or removed as one, and every byte of the
others stays. An empty map is "not deployed yet".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields

from release.errors import BadValuesError
from release.values import scalars, tree
from release.values.references import Model
from release.values.tree import Snapshot

HEADER = "# Written by `release`; do not edit.\n"
EMPTY = f"{HEADER}models: {{}}\n"
FIELDS = tuple(field.name for field in fields(Model) if field.name != "name")
_RESTORE = "restore the file from Git; only `release model` writes it"

OF_ONE_MODEL = "# The release was made by `release model add` for its model, and goes with it.\n"
"""In the map of models of such a release: how it is known again."""


def read(at: Snapshot, environment: str, release: str) -> dict[str, Model]:
    """The release's models by name, none where it has no such file.

    A file of the kind before (`<release>.model.yaml`, one model) is read where there is none of
    this kind: the next command that writes the release's models replaces it.

    Raises BadValuesError, naming the file and the entry that is not complete.
    """
    path = tree.models_file(environment, release)
    data = at.read(path)
    if data is None:
        former = tree.former_model_file(environment, release)
        data = at.read(former)
        return {} if data is None else _former(data, former)
    content = scalars.load(data, path)
    entries = content.get("models") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or set(content) != {"models"}:
        raise BadValuesError(f"{path} holds no map `models` and nothing else.", fix=_RESTORE)
    return {str(name): _entry(path, str(name), entry) for name, entry in entries.items()}


def write(
    at: Snapshot, environment: str, release: str, models: Mapping[str, Model]
) -> dict[str, bytes | None]:
    """The edits after which the release has these models and no others.

    Raises BadValuesError where the file is not as `release` writes it.
    """
    path, former = (of(environment, release) for of in (tree.models_file, tree.former_model_file))
    data = at.read(path)
    had = {} if data is None else read(at, environment, release)
    text = (EMPTY.encode() if data is None else data).decode()
    for name in had.keys() - models.keys():
        text = _without(text, name, path)
    for name in sorted(models.keys() & had.keys()):
        changes: dict[scalars.Path, scalars.Value] = {
            ("models", name, key): getattr(models[name], key) for key in FIELDS
        }
        text = scalars.edit(text.encode(), changes, path).decode()
    for name in sorted(models.keys() - had.keys()):
        text = _with(text, models[name])
    wanted = {name: {key: getattr(model, key) for key in FIELDS} for name, model in models.items()}
    if scalars.load(text.encode(), path) != {"models": wanted}:
        raise BadValuesError(f"{path} is not as `release` writes it.", fix=_RESTORE)
    edits: dict[str, bytes | None] = {path: text.encode()}
    return edits | ({former: None} if at.read(former) is not None else {})


def short(models: Iterable[Model]) -> str:
    """For tables: ``digits/3, iris/1``."""
    return ", ".join(model.short for model in models) or "-"


def _entry(path: str, name: str, entry: object) -> Model:
    given = entry if isinstance(entry, dict) else {}
    wrong = [key for key in FIELDS if not (isinstance(given.get(key), str) and given[key])]
    if wrong or len(given) != len(FIELDS):
        said = f"{', '.join(wrong)} is no text" if wrong else "it has other keys"
        raise BadValuesError(f"models.{name} in {path} is not complete: {said}.", fix=_RESTORE)
    return Model(name, **given)


def _former(data: bytes, path: str) -> dict[str, Model]:
    values = {f.name: scalars.read(data, ("model", f.name), path) for f in fields(Model)}
    if any(values.values()) and not all(values.values()):
        raise BadValuesError(f"{path} is half filled in.", fix=_RESTORE)
    return {values["name"]: Model(**values)} if values["name"] else {}


def _key(name: str) -> str:
    return scalars.written(name, None)


def _block(model: Model) -> str:
    lines = [f"  {_key(model.name)}:"]
    lines += [f"    {key}: {scalars.written(getattr(model, key), chr(34))}" for key in FIELDS]
    return "".join(f"{line}\n" for line in lines)


def _entry_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"^  {re.escape(_key(name))}:[^\n]*\n(?:(?:    [^\n]*)?\n)*", re.MULTILINE)


def _without(text: str, name: str, path: str) -> str:
    text, count = _entry_pattern(name).subn("", text)
    if count != 1:
        raise BadValuesError(f"{path} has no entry {name} as `release` writes one.", fix=_RESTORE)
    return re.sub(r"^models:[ ]*\n(?!  )", "models: {}\n", text, flags=re.MULTILINE)


def _with(text: str, model: Model) -> str:
    text = re.sub(r"^models: *\{\} *$", "models:", text, flags=re.MULTILINE)
    text = text if text.endswith("\n") else text + "\n"
    later = [
        found.start()
        for found in re.finditer(r'^  "?([^\s":#]+)"?:', text, re.MULTILINE)
        if found[1] > model.name
    ]
    at = later[0] if later else len(text)
    return text[:at] + _block(model) + text[at:]
