"""A new environment: its values, its ApplicationSet and project, made from one that is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from release.create.service import EMPTY_IMAGE, Files, read_as_text, read_text
from release.errors import BadReferenceError, BadValuesError, ConflictError, NotFoundError
from release.render import helm
from release.render.helm import Release
from release.values import layout, tree
from release.values.model_map import OF_ONE_MODEL

_NAME = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_REDIS = re.compile(r"(rediss?://[^\s/?#'\"\\]+)(/\d*)?(\?[^\s#'\"\\]*)?")
_BUCKET = re.compile(
    r"""((?i:\b\w*bucket(?:_?name)?)\\?["']?\s*:\s*\\?["']?|\bs3://)"""
    r"""(?!(?:true|false|null)\b)([a-z0-9][a-z0-9.-]+)"""
)
_DEVICES = r"(?<!values)/dev/(?:shm|null|zero|u?random|fd|tty|pts|stdin|stdout|stderr|nvidia)\w*"
_OPTIONS = re.compile(r"(options: *\[)([^\]]*)(\])")
_INPUT = re.compile(r"^ *(\w+): *(?:#.*)?$", re.M)
LONGEST_NAME = 30
REDIS_DATABASES = 16
"""How many a Redis has unless it is configured otherwise."""
NO_MODELS = "# Written by `release`; do not edit.\nmodels: {}\n"
_TAKEN = frozenset(
    {"root", "default", "argocd", "promotion", "kube-system", "kube-public", "kube-node-lease",
     "istio-system", "slipway-system"}
)  # fmt: skip
WORKFLOWS = (".github/workflows/promote.yaml", ".github/workflows/rollback.yaml")


@dataclass(frozen=True)
class NewEnvironment:
    """What is asked for: a name, and the environment whose versions are promoted into it."""

    name: str
    after: str
    like: str = ""
    """The environment whose files it begins with; ``after`` where none is named."""


def planned(root: Path, wanted: NewEnvironment) -> Files:
    """Files to write below ``root``, a checkout, by path; nothing is written here.

    Raises BadReferenceError for a name that cannot be, ConflictError for one that is in use,
    NotFoundError for an environment that is not there, BadValuesError where no Redis is left
    or the files of ``like`` are not understood.
    """
    known = helm.environments(root)
    if not _NAME.fullmatch(wanted.name) or len(wanted.name) > LONGEST_NAME:
        raise BadReferenceError(
            f"The name {wanted.name!r} is no name of an environment, which is a namespace as well.",
            fix=f"write lower-case letters, digits and dashes, at most {LONGEST_NAME}, like qa",
        )
    if wanted.name in layout.NO_ENVIRONMENTS | _TAKEN or not read_as_text(wanted.name):
        raise BadReferenceError(
            f"The name {wanted.name!r} has a meaning of its own here, in Kubernetes or in YAML.",
            fix="choose another name",
        )
    if wanted.name in known or (root / "values" / wanted.name).exists():
        raise ConflictError(f"There is an environment {wanted.name} already.")
    like = wanted.like or wanted.after
    for name in (wanted.after, like):
        if name not in known:
            raise NotFoundError(
                f"Nobody deploys the environment {name!r}.", fix=f"use one of {', '.join(known)}"
            )
    there = helm.releases(root, like)
    keep = [one for row in there for one in (row.name, row.service)] + [
        name for name in known if name != like
    ]
    files: Files = {}
    for of in (layout.environment_file, layout.project_file):
        text = _renamed(read_text(root / of(like)), like, wanted.name, keep, urls=False)
        files[of(wanted.name)] = text.encode()
    files |= _values(root, known, there, wanted.name, keep)
    files |= _workflows(root, known, wanted)
    return files


def _values(
    root: Path, known: list[str], there: Sequence[Release], name: str, keep: Sequence[str]
) -> Files:
    """The values of another environment, with hosts, buckets and a Redis database of its own."""
    files: Files = {}
    texts = [
        read_text(path) for other in known for path in (root / "values" / other).glob("*.yaml")
    ]
    for release in there:
        like = release.environment
        own = root / layout.values_file(like, release.name)
        if own.is_file():
            text = own_stores(_renamed(read_text(own), like, name, keep), name, texts)
            files[layout.values_file(name, release.name)] = text.encode()
        if (root / tree.image_file(like, release.name)).is_file():
            files[tree.image_file(name, release.name)] = EMPTY_IMAGE.encode()
        if (root / tree.models_file(like, release.name)).is_file():
            text = read_text(root / tree.models_file(like, release.name))
            first = OF_ONE_MODEL if text.startswith(OF_ONE_MODEL) else ""
            files[tree.models_file(name, release.name)] = (first + NO_MODELS).encode()
        if (servers := root / tree.servers_file(like, release.name)).is_file():
            text = _renamed(read_text(servers), like, name, keep)
            files[tree.servers_file(name, release.name)] = text.encode()
    return files


def _renamed(text: str, old: str, new: str, keep: Sequence[str], *, urls: bool = True) -> str:
    """One environment's name in the place of another's, as a word of its own.

    Names in ``keep`` that have it as a part stay, as do devices and, without ``urls``, addresses
    of repositories and clusters and what is followed there.
    """
    names = sorted({old, *(one for one in keep if old in one)}, key=len, reverse=True)
    stay = _DEVICES if urls else rf"{_DEVICES}|\b[a-z][a-z+]*://[^\s,\]\}}'\"]+|targetRevision:.*"
    either = "|".join(map(re.escape, names))
    pattern = re.compile(rf"{stay}|(?<![A-Za-z0-9_])({either})(?![A-Za-z0-9_])")
    return pattern.sub(lambda found: new if found[1] == old else found[0], text)


def own_stores(text: str, name: str, others: Sequence[str]) -> str:
    """Text of values in which no store is one of another environment's.

    ``others`` are the texts of the values of all environments. Raises BadValuesError where no
    database of Redis is left, or a bucket's own name is one of another environment.
    """
    databases = {_database(found) for other in others for found in _REDIS.finditer(other)}
    buckets = {found[2] for other in others for found in _BUCKET.finditer(other)}

    def redis(found: re.Match[str]) -> str:
        free = next((one for one in range(REDIS_DATABASES) if one not in databases), None)
        if free is None:
            raise BadValuesError(
                f"The environments have all {REDIS_DATABASES} databases of their Redis.",
                fix="give another environment a Redis of its own in its values",
            )
        rest = [one for one in (found[3] or "?")[1:].split("&") if one and one[:3] != "db="]
        return f"{found[1]}/{free}" + ("?" + "&".join(rest) if rest else "")

    def bucket(found: re.Match[str]) -> str:
        parts = rf"(?:^|[.-]){re.escape(name)}(?:$|[.-])"
        ours = found[2] if re.search(parts, found[2]) else f"{found[2]}-{name}"
        ours = f"{ours}-{name}" if ours in buckets else ours
        if ours in buckets:
            raise BadValuesError(
                f"The bucket {ours} is named by an environment that is there.",
                fix="choose another name for the new environment",
            )
        return found[1] + ours

    return _BUCKET.sub(bucket, _REDIS.sub(redis, text))


def _database(found: re.Match[str]) -> int:
    """The number of the database that an address of Redis names; 0 where it names none."""
    asked = re.search(r"[?&]db=(\d+)", found[3] or "")
    return int(asked[1] if asked else (found[2] or "/")[1:] or 0)


def _workflows(root: Path, known: Sequence[str], wanted: NewEnvironment) -> Files:
    """The workflows whose lists of environments people choose from, with one more.

    One that has no such list is left out.
    """
    files: Files = {}
    for path in WORKFLOWS:
        if not (root / path).is_file():
            continue
        text = read_text(root / path)

        def longer(found: re.Match[str], text: str = text) -> str:
            names = [one.strip().strip("'\"") for one in found[2].split(",") if one.strip()]
            if not set(names) & set(known) or wanted.name in names:
                return found[0]
            above = _INPUT.findall(text, 0, found.start())
            if "from" in above[-1:] and wanted.after not in names:
                names.append(wanted.after)
            at = names.index(wanted.after) + 1 if wanted.after in names else 0
            return found[1] + ", ".join([*names[:at], wanted.name, *names[at:]]) + found[3]

        changed = _OPTIONS.sub(longer, text)
        if changed != text:
            files[path] = changed.encode()
    return files
