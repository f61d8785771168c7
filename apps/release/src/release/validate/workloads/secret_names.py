"""Names of Secrets: what they hold is not in the tree, but a name with a wrong letter is seen."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from release.render import merged_values
from release.render.helm import Release
from release.validate.environment import Environment
from release.validate.findings import Finding, at_value
from release.values.merge import Values

# Secrets that the charts themselves name hold keys of S3, never a service's settings.
_STORE_SECRETS = {"s3-credentials", "probe-credential"}


def findings(environment: Environment) -> Iterator[Finding]:
    """Names that are almost those of a Secret that the tree knows."""
    for release in environment.documents:
        if release.chart != "service":
            continue
        for path, name in _named(merged_values.with_defaults(environment.root, release)):
            meant = misspelt(environment, name)
            if meant:
                yield at_value(
                    environment.root, release, ".".join(path),
                    f"names the Secret {name!r}, which nothing else in the tree names",
                    f"did you mean {meant}?", path,
                )  # fmt: skip


def with_settings(environment: Environment, release: Release) -> set[str]:
    """The Secrets of a release that may hold settings of its service."""
    every = merged_values.with_defaults(environment.root, release)
    names = {name for path, name in _named(every) if path[0] == "envFromSecrets"}
    return {name for name in names - _STORE_SECRETS if not misspelt(environment, name)}


def misspelt(environment: Environment, name: str) -> str:
    """The known Secret that a name is almost; empty where it is one, or like none."""
    known = _STORE_SECRETS | {d["metadata"]["name"] for d in environment.of_kind("ExternalSecret")}
    if name in known:
        return ""
    used = _used(environment.root)
    known |= {other for other, files in used.items() if files > max(used[name], 1)}
    # `keys-b` beside `keys` is meant so.
    others = sorted(one for one in known if not name.startswith(f"{one}-"))
    return next(iter(difflib.get_close_matches(name, others, n=1, cutoff=0.9)), "")


def _used(root: Path) -> Counter[str]:
    """In how many files of values each Secret is named."""
    return Counter(
        name
        for path in sorted((root / "values").rglob("*.yaml"))
        for name in {name for part in _parts(merged_values.read(path)) for _, name in _named(part)}
    )


def _parts(content: Values) -> Iterator[Values]:
    """A file's own values, and those of each of the platform's peers in it."""
    yield content
    platform = content.get("platform")
    peers = platform.get("peers") if isinstance(platform, dict) else None
    for peer in peers.values() if isinstance(peers, dict) else ():
        if isinstance(peer, dict):
            yield peer


def _named(some: Values) -> Iterator[tuple[tuple[str, ...], str]]:
    for key in ("envFromSecrets", "secretFiles"):
        section = merged_values.layered(some, key)
        for name, wanted in section.items():
            if wanted:
                yield (key, str(name)), str(name)
    check = some.get("check")
    credential = check.get("credential") if isinstance(check, dict) else None
    if credential:
        yield ("check", "credential"), str(credential).partition("/")[0]
