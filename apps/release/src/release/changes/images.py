"""New images for an environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from release.changes.messages import deployment_message
from release.changes.transaction import Plan, Row
from release.errors import HeldError, SupersededError
from release.git.ancestry import Sources, refuse_older
from release.git.commit_tree import CommitTree
from release.values import holds, tree
from release.values.references import Image


@dataclass(frozen=True)
class ImageSet:
    """Write new images into an environment; ``images`` maps image names to what to write."""

    environment: str
    images: Mapping[str, Image]
    sources: Sources
    now: datetime
    allow_unrelated: bool = False

    def __call__(self, at: CommitTree) -> Plan:
        """Releases that are held or run something newer are left alone, each with a note.

        Raises HeldError or SupersededError when that leaves nothing to do, NotFoundError for
        an image that no release of the environment runs.
        """
        tree.require_environment(at, self.environment)
        images = tree.images(at, self.environment)
        current = {release: image for release, (_, image) in images.items()}
        runs = {release: name for release, (name, _) in images.items()}
        unknown = set(self.images) - set(runs.values())
        if unknown:
            raise tree.unknown_service(sorted(unknown)[0], set(runs.values()), self.environment)
        held = holds.read(at, self.environment)
        edits: dict[str, bytes | None] = {}
        rows: list[Row] = []
        refused: list[HeldError | SupersededError] = []
        for release, old in current.items():
            new = self.images.get(runs[release])
            if new is None or (old.repository, old.digest) == (new.repository, new.digest):
                continue
            try:
                if hold := holds.covering(held, release, self.now):
                    raise holds.refuse(self.environment, release, hold)
                refuse_older(
                    self.sources,
                    f"{release} in {self.environment}",
                    old.revision,
                    new.revision,
                    allow_unrelated=self.allow_unrelated,
                )
            except (HeldError, SupersededError) as error:
                refused.append(error)
                continue
            path = tree.image_file(self.environment, release)
            edits[path] = tree.write_image(at, path, new)
            rows.append(Row(release, "image", old.reference, new.reference))
        if refused and not edits:
            raise refused[0]
        revisions = sorted({image.revision for image in self.images.values()})
        return Plan(
            edits,
            deployment_message("image set", self.environment, rows, revisions),
            rows,
            [f"Left alone: {error.message}" for error in refused],
        )
