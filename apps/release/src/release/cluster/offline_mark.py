"""The mark that an offline rollback leaves on an Application, and how Argo CD is made to wait."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from release.errors import BadValuesError

SKIP = "argocd.argoproj.io/skip-reconcile"
"""Argo CD leaves an Application alone that has this annotation; argocd/environments has it."""
MARK = "slipway/offline-rollback"


@dataclass(frozen=True)
class Mark:
    """An offline rollback, as its Applications are marked with it."""

    commit: str
    """Whose verified manifests were applied."""
    replaces: tuple[str, ...]
    """The commits Argo CD had synced."""
    services: tuple[str, ...]
    """Releases that were named; all when empty."""
    by: str
    at: str
    """When, UTC, as ISO 8601."""
    reason: str

    def __str__(self) -> str:
        text = f"rolled back offline to {self.commit[:12]} by {self.by} at {self.at}"
        return f"{text}: {self.reason}" if self.reason else text

    def annotation(self) -> str:
        """As the annotation's value."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


def read(application: dict[str, Any]) -> Mark | None:
    """The mark on an Application; None when it has none.

    Raises BadValuesError when it cannot be read.
    """
    metadata = application.get("metadata", {})
    text = metadata.get("annotations", {}).get(MARK)
    if text is None:
        return None
    try:
        content = json.loads(text)
        lists = {key: tuple(content[key]) for key in ("replaces", "services")}
        return Mark(**{**content, **lists})
    except (ValueError, TypeError, KeyError) as error:
        raise BadValuesError(
            f"The annotation {MARK} of {metadata['name']} cannot be read ({error!r}).",
            fix=f"remove it and {SKIP} by hand; Argo CD then follows Git",
        ) from error
