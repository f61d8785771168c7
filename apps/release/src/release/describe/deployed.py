"""What a release of an environment runs by Git, and which commit said so."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime

from release.describe.facts import Description, Part, place_in
from release.errors import ReleaseError
from release.git import message as msg
from release.git.commit_tree import CommitTree
from release.records import deployments, verdicts
from release.values import holds, layout, model_map, scalars, tree
from release.values.references import Image


@dataclass(frozen=True)
class Known:
    """A commit of the repository, with the verdicts that are kept beside it."""

    at: CommitTree
    log: verdicts.Log
    now: datetime

    def verdict(self, environment: str, commit: str) -> str:
        """What was seen of an environment after a commit, or that nobody looked."""
        seen = [one.verdict for one in self.log.of(environment) if one.commit == commit]
        return seen[-1] if seen else "no verdict is kept"


def row_of(at: CommitTree, environment: str, release: str) -> layout.Row | None:
    """The release's row in the environment's ApplicationSet."""
    return next((row for row in tree.rows(at, environment) if row.name == release), None)


def row_place(at: CommitTree, environment: str, release: str) -> str:
    """File and line of the release's row."""
    file = layout.environment_file(environment)
    for number, line in enumerate((at.read(file) or b"").decode(errors="replace").split("\n"), 1):
        text = line.split("#")[0]
        if text.lstrip().startswith("- ") and _names(text, release):
            return f"{file}:{number}"
    return file


def _names(text: str, release: str) -> bool:
    words = text.replace("{", " ").replace("}", " ").replace(",", " ").replace('"', " ").split()
    return any(a == "release:" and b == release for a, b in itertools.pairwise(words))


def add_release(part: Part, known: Known, environment: str, release: str) -> list[str]:
    """Facts of a release in an environment; what is missing of it, in sentences."""
    at = known.at
    gaps: list[str] = []
    row = row_of(at, environment, release)
    if row is None:
        return [f"{environment} has no release {release}: {layout.environment_file(environment)}"]
    shared = f", with the image and values of {row.of}" if row.of != row.name else ""
    part.add("release", f"chart {row.chart}{shared}", row_place(at, environment, release))
    for file in row.files:
        if at.read(file) is not None and not file.endswith(tree.MACHINE_SUFFIXES):
            part.add("values", _keys(at, file), file)
    gaps += _add_image(part, known, environment, release, row)
    for model in model_map.read(at, environment, release).values():
        place = place_in(at, tree.models_file(environment, release), ("models", model.name))
        part.add("model", f"{model.short}, model.json {model.sha256[:12]}, {model.uri}", place)
    last = deployments.log(at.git, at.commit, environment, [release], 1)
    if last:
        part.add("last change", *_change(known, environment, last[0]))
    for hold in holds.read(at, environment):
        if hold.covers(release, known.now):
            part.add("hold", str(hold), tree.hold_file(environment))
    return gaps


def _add_image(
    part: Part, known: Known, environment: str, release: str, row: layout.Row
) -> list[str]:
    file = tree.image_file(environment, release)
    if known.at.read(file) is None:
        if row.chart != "service":
            return []
        return [f"{file} is missing: no image is set for {release} in {environment}"]
    image = tree.read_image(known.at, environment, release)
    if not image.deployed:
        return [f"nothing is deployed of {release} in {environment}: {file} names no image"]
    part.add("image", f"{image.repository}:{image.tag}", place_in(known.at, file, ("image", "tag")))
    part.add("digest", image.digest, place_in(known.at, file, ("image", "digest")))
    return add_source(part, known, image)


def add_source(part: Part, known: Known, image: Image) -> list[str]:
    """The source commit that an image was built from, and whether it is in this repository."""
    git = known.at.git
    if git.resolve(image.revision) is None:
        part.add("source", image.revision, "not in this repository")
        return [
            f"the source commit {image.revision[:12]} of {image.short} is not in this clone: "
            "fetch it, or run the command in the source repository's clone"
        ]
    said = git.text("log", "-1", "--format=%s (%an)", image.revision)
    part.add("source", said, f"commit {image.revision}")
    return []


def _change(known: Known, environment: str, entry: msg.Logged) -> tuple[str, str]:
    verdict = known.verdict(environment, entry.commit)
    when = datetime.fromtimestamp(entry.when, UTC).strftime("%Y-%m-%d %H:%M UTC")
    what = entry.first(msg.OPERATION) or "edited by hand"
    said = f"{when}, {what}, by {entry.author}: {entry.subject}"
    return f"{said} [{verdict}]", f"commit {entry.commit}"


def _keys(at: CommitTree, file: str) -> str:
    try:
        content = scalars.load(at.read(file) or b"", file)
    except ReleaseError as error:
        return f"cannot be read: {error.message}"
    return "sets " + ", ".join(map(str, content)) if isinstance(content, dict) and content else "-"


def describe_releases(found: Description, known: Known, releases: list[tuple[str, str]]) -> None:
    """A part for each (environment, release)."""
    for environment, release in releases:
        part = found.part(f"{release} in {environment}")
        found.gaps += add_release(part, known, environment, release)
