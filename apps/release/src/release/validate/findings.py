"""What a check finds, and how several findings of one fault become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from release.render import merged_values
from release.render.helm import Manifest, Release
from release.values import locations
from release.values.locations import Place


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong: where, which key, what, what to do about it, and which releases it hits."""

    file: str
    line: int
    key: str
    message: str
    fix: str = ""
    releases: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = str(Place(self.file, self.line))
        key = f"{self.key}: " if self.key else ""
        hit = f" ({', '.join(self.releases)})" if self.releases else ""
        return f"{where}: {key}{self.message}{hit}" + (f" Fix: {self.fix}." if self.fix else "")


def merged(found: Iterable[Finding]) -> list[Finding]:
    """One finding per fault: those that differ only in the releases they hit are put together."""
    together: dict[Finding, set[str]] = {}
    for finding in found:
        together.setdefault(replace(finding, releases=()), set()).update(finding.releases)
    return sorted(
        replace(finding, releases=tuple(sorted(releases))) for finding, releases in together.items()
    )


@dataclass(frozen=True)
class Context:
    """A rendered object, the release it is of and the tree its values lie in."""

    root: Path
    release: Release
    document: Manifest

    def finding(self, key: str, message: str, fix: str, *paths: Sequence[str]) -> Finding:
        """A finding about this object, at the first of the value paths that a file sets."""
        what = f"{self.document['kind']} {self.document['metadata']['name']}"
        return at_value(self.root, self.release, key, f"{what} {message}", fix, *paths)


def at_value(
    root: Path, release: Release, key: str, message: str, fix: str, *paths: Sequence[str]
) -> Finding:
    """A finding at the first of the value paths that a file of the release sets.

    What no file sets for the release itself may be the platform's. Where no file sets any of them
    it stands at the release's last file, under ``key``.
    """
    shared = [path for path in paths if path[0] in ("env", "envFromSecrets")]
    above = (
        reversed(merged_values.layers(merged_values.of_files(root, release))[:-1]) if shared else ()
    )
    for path in (*paths, *((*layer, *path) for layer in above for path in shared)):
        place = locations.place_of(root, release.files, path)
        if place is not None:
            return Finding(place.file, place.line, ".".join(path), message, fix, (str(release),))
    file = release.files[-1] if release.files else release.folder
    return Finding(file, 0, key, message, fix, (str(release),))
