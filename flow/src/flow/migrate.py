"""A move of values that Argo CD must not see by halves.

An ApplicationSet of before names files that a commit has moved; Argo CD passes over value files
that are not there, so for as long as the new ApplicationSets are not applied its Applications
would be rendered without them. They are made to wait meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from cluster.kube import Kubectl
from flow.errors import FlowError
from release.cluster import offline_mark

MOVING = "slipway/values-moving"
"""On an ApplicationSet whose Applications wait: whoever pauses them may not live to resume them."""
SECONDS = 180.0
_FOLDER = re.compile(r"(?:^|/)values/([^/{]+)/")


def outdated(application_sets: Sequence[dict[str, Any]], repo: Path) -> list[str]:
    """Environments whose ApplicationSet names a folder of values/ that a checkout has not."""
    found = []
    for one in application_sets:
        template = one["spec"]["template"]
        environment = template.get("metadata", {}).get("labels", {}).get("slipway/environment")
        helm = template.get("spec", {}).get("source", {}).get("helm", {})
        folders = {name for path in helm.get("valueFiles", []) for name in _FOLDER.findall(path)}
        # One that the checkout has given up goes by a person's confirmation, not by a move.
        if not environment or not (repo / "values" / environment).is_dir():
            continue
        if any(not (repo / "values" / name).is_dir() for name in folders):
            found.append(environment)
    return sorted(found)


def pause(kubectl: Kubectl, repo: Path) -> list[str]:
    """Have the Applications of outdated environments wait; return those that `resume` is due.

    Among these are the ones that an earlier run has paused and did not resume.
    """
    sets = _sets(kubectl)
    old = outdated(sets, repo)
    if old:
        typer.echo(f"values were moved: the applications of {', '.join(old)} wait for that")
    for environment in old:
        # The set first, so that none of its Applications waits without the mark.
        _annotate_set(kubectl, environment, f"{MOVING}=true")
        _annotate_applications(kubectl, environment, f"{offline_mark.SKIP}=true")
    left = (one for one in sets if MOVING in one["metadata"].get("annotations", {}))
    return sorted({*old, *(one["metadata"]["name"] for one in left)})


def resume(kubectl: Kubectl, environments: Sequence[str]) -> None:
    """Have the Applications of these environments go on."""
    for environment in environments:
        _annotate_applications(kubectl, environment, f"{offline_mark.SKIP}-")
        _annotate_set(kubectl, environment, f"{MOVING}-")


def resume_when_applied(kubectl: Kubectl, repo: Path, environments: Sequence[str]) -> None:
    """`resume` once the ApplicationSets of these environments are new.

    Raises FlowError when they are not after three minutes; the Applications then wait on, and the
    next `make up` resumes them.
    """
    end = time.monotonic() + SECONDS
    while environments and (still := outdated(_sets(kubectl), repo)):
        if time.monotonic() > end:
            raise FlowError(
                f"Argo CD has not applied argocd/environments/{still[0]}.yaml after "
                f"{SECONDS:.0f} s: look at `kubectl get application root -n argocd -o yaml`"
            )
        time.sleep(1)
    resume(kubectl, environments)


def _sets(kubectl: Kubectl) -> list[dict[str, Any]]:
    return kubectl.items("applicationsets", "-n", "argocd")


def _annotate_set(kubectl: Kubectl, environment: str, annotation: str) -> None:
    name = f"applicationset/{environment}"
    kubectl.run("annotate", "--overwrite", name, "-n", "argocd", annotation)


def _annotate_applications(kubectl: Kubectl, environment: str, annotation: str) -> None:
    selector = f"--selector=slipway/environment={environment}"
    names = [
        f"application/{one['metadata']['name']}"
        for one in kubectl.items("applications", "-n", "argocd", selector)
        # Whoever has rolled back offline ends that himself.
        if offline_mark.MARK not in one["metadata"].get("annotations", {})
    ]
    if names:
        kubectl.run("annotate", "--overwrite", *names, "-n", "argocd", annotation)
