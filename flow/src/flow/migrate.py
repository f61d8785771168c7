"""A move of values that Argo CD must not see by halves.

An ApplicationSet of before names files that a commit has moved; Argo CD passes over value files
that are not there, so for as long as the new ApplicationSets are not applied its Applications
would be rendered without them. They are told to wait meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from cluster.kube import Kubectl
from flow.errors import FlowError

WAIT = "argocd.argoproj.io/skip-reconcile"
OFFLINE = "slipway/offline-rollback"
"""Beside `WAIT` where somebody has rolled back offline: that is not ours to end."""
SECONDS = 180.0
_FOLDER = re.compile(r"(?:^|/)values/([^/{]+)/")


def outdated(application_sets: list[dict[str, Any]], repo: Path) -> list[str]:
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


@contextmanager
def paused(kubectl: Kubectl, repo: Path) -> Iterator[None]:
    """Have the Applications of outdated environments wait until their ApplicationSets are new.

    Raises FlowError when these are not there after three minutes; the Applications then wait on,
    and the next `make up` ends that.
    """
    old = outdated(_sets(kubectl), repo)
    waiting = [name for environment in old for name in _applications(kubectl, environment)]
    if waiting:
        typer.echo(f"values were moved: the applications of {', '.join(old)} wait for that")
        kubectl.run("annotate", "--overwrite", *waiting, "-n", "argocd", f"{WAIT}=true")
    try:
        yield
    except BaseException:
        if waiting:  # the move did not happen
            kubectl.run("annotate", *waiting, "-n", "argocd", f"{WAIT}-")
        raise
    if not waiting:
        return
    end = time.monotonic() + SECONDS
    while still := outdated(_sets(kubectl), repo):
        if time.monotonic() > end:
            raise FlowError(
                f"Argo CD has not applied argocd/environments/{still[0]}.yaml after "
                f"{SECONDS:.0f} s: look at `kubectl get application root -n argocd -o yaml`"
            )
        time.sleep(1)
    kubectl.run("annotate", *waiting, "-n", "argocd", f"{WAIT}-")


def _sets(kubectl: Kubectl) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = kubectl.get("applicationsets", "-n", "argocd").get("items", [])
    return items


def _applications(kubectl: Kubectl, environment: str) -> list[str]:
    """Those that nobody has told to wait for another reason."""
    selector = f"--selector=slipway/environment={environment}"
    items = kubectl.get("applications", "-n", "argocd", selector).get("items", [])
    return [
        f"application/{one['metadata']['name']}"
        for one in items
        if OFFLINE not in one["metadata"].get("annotations", {})
    ]
