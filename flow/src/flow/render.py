"""Stage 3: charts and values become manifests, with the Helm that Argo CD uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flow.errors import FlowError
from release.render import helm


def render(clone: Path, environment: str) -> dict[str, list[dict[str, Any]]]:
    """The objects of each release of an environment, in the order of its ApplicationSet.

    Raises FlowError with Helm's own words where a value is refused.
    """
    rendered = helm.render_all(clone, helm.releases(clone, environment))
    for one in rendered:
        if one.error:
            raise FlowError(f"{one.release}: {one.error}")
    return {one.release.name: one.manifests for one in rendered}
