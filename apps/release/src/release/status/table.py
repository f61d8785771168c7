"""The table of what is wanted and what runs, per environment and release."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from release.checks import endpoints, plan
from release.checks.answers import Problem
from release.cluster.client import Observation
from release.diagnosis.causes import Cause
from release.diagnosis.drift import IMAGE_DRIFT
from release.diagnosis.releases import Finding, State, find
from release.git.commit_tree import CommitTree
from release.live import objects, served_models
from release.live.objects import Live
from release.live.served_models import Seen
from release.live.traffic import Traffic
from release.values import holds, model_map, tree
from release.values.holds import Hold
from release.values.references import Image, Model

COLUMNS = (
    "env", "release", "state", "wanted", "running", "models", "sync", "health", "pods",
    "endpoints", "traffic", "hold", "age", "source",
)  # fmt: skip
_COLOURS = {
    State.DEPLOYED: "green",
    State.ABSENT: "dim",
    State.PROGRESSING: "yellow",
    State.FAILED: "red",
}


@dataclass(frozen=True)
class Line:
    """One release of one environment."""

    environment: str
    wanted: Image
    models: tuple[Model, ...]
    hold: Hold | None
    changed: int | None
    """When its values last changed, in seconds since the epoch."""
    finding: Finding
    endpoints: int | None = None
    """Ready addresses behind its Service; None where nobody calls it by one."""
    traffic: Traffic | str = "-"
    """Its requests of late, or why they are not known."""
    serving: Seen | str = "-"
    """What its pods serve where it is a model server, or why that is not known."""

    @property
    def state(self) -> str:
        """The finding's state, and why nothing runs."""
        if self.finding.state is State.DEPLOYED and not self.finding.verified:
            zero = self.finding.scaled_to_zero
            return "deployed, scaled to zero" if zero else "deployed, not run yet"
        return self.finding.state.value

    def as_json(self) -> dict[str, Any]:
        """The line with full digests and commits."""
        finding = self.finding
        return {
            "environment": self.environment,
            "release": finding.release,
            "state": finding.state.value,
            "proved": finding.verified,
            "wanted": {
                "image": self.wanted.reference,
                "tag": self.wanted.tag,
                "digest": self.wanted.digest,
                "revision": self.wanted.revision,
                "models": [{"name": one.name, "version": one.version} for one in self.models],
            },
            "running": list(finding.running),
            "sync": finding.sync,
            "health": finding.health,
            "synced_commit": finding.revision,
            "pods": {"ready": finding.ready, "all": finding.pods},
            "endpoints": self.endpoints,
            "traffic": vars(self.traffic) if isinstance(self.traffic, Traffic) else None,
            "serving": None
            if isinstance(self.serving, str)
            else {pod: [vars(model) for model in models] for pod, models in self.serving.items()},
            "hold": str(self.hold) if self.hold else None,
            "changed": self.changed,
            "causes": [
                {"kind": cause.kind, "text": cause.text, "final": cause.final, "fix": cause.fix}
                for cause in finding.causes
            ],
        }


def wanted_images(at: CommitTree, environment: str) -> dict[str, Image]:
    """What each listed release should run, in the order they are listed."""
    with_image = set(tree.image_releases(at, environment))
    return {
        release: tree.read_image(at, environment, release) if release in with_image else Image()
        for release in tree.releases(at, environment)
    }


def lines(
    at: CommitTree,
    environment: str,
    seen: Observation,
    now: datetime,
    *,
    live: Mapping[str, Live] | None = None,
    kept_out: Sequence[Cause] = (),
) -> list[Line]:
    """An environment's lines, in the order its releases are listed.

    ``live`` is what became of their objects, by release, ``kept_out`` what keeps users out of the
    environment.
    """
    planned = plan.read(at, environment)
    called = set(planned.addresses)
    held = holds.read(at, environment)
    with_image = set(tree.image_releases(at, environment))
    changed = last_changes(at, environment)
    made = []
    for release, image in wanted_images(at, environment).items():
        finding = find(release, image, seen)
        if release in with_image and not image.deployed and finding.state is State.DEPLOYED:
            finding = absent(finding)
        elif (app := seen.applications.get(release)) is not None:
            more = objects.causes(app, (live or {}).get(release, Live()), now)
            if release == planned.routing_release:
                more += kept_out
            finding = failed_if_final(finding, more)
            finding = failed_if_drifted(finding, at.commit)
            finding = failed_if_scaled_down(finding, planned.without_pods)
        addresses: int | None = None
        if release in called and not finding.scaled_to_zero:
            addresses = endpoints.ready_addresses(release, seen.endpointslices) or 0
            if addresses == 0 and finding.state is State.DEPLOYED:
                unreached = endpoints.problem(release, seen.endpointslices)
                finding = replace(
                    finding,
                    state=State.FAILED,
                    causes=(*finding.causes, _unreached(unreached)),
                )
        made.append(
            Line(
                environment,
                image,
                tuple(model_map.read(at, environment, release).values()),
                holds.covering(held, release, now),
                changed.get(release),
                finding,
                addresses,
            )
        )
    return made


def _unreached(problem: Problem | None) -> Cause:
    text, fix = (problem.text, problem.fix) if problem is not None else ("", "")
    return Cause("endpoints", text, final=True, fix=fix)


def failed_if_final(finding: Finding, more: Sequence[Cause]) -> Finding:
    """The finding with what the cluster itself says against Argo CD's word."""
    failed = any(cause.final for cause in more) or finding.state is State.FAILED
    return replace(
        finding,
        state=State.FAILED if failed else finding.state,
        causes=(*finding.causes, *more),
    )


def failed_if_scaled_down(finding: Finding, allowed: Collection[str]) -> Finding:
    """Failed where a Deployment is scaled to zero and is not among those that Git lets be so."""
    applied = finding.state is State.DEPLOYED and finding.wanted.deployed
    if not (applied and finding.scaled_to_zero) or finding.release in allowed:
        return finding
    name = finding.release
    cause = Cause(
        "scaled to zero",
        f"Deployment {name} is scaled to no pods, and Git wants some",
        final=True,
        fix="let Argo CD apply Git again (does its controller run?), and see who changed it with "
        f"`kubectl get deployment {name} --show-managed-fields -o yaml`",
    )
    return replace(finding, state=State.FAILED, causes=(*finding.causes, cause))


def failed_if_drifted(finding: Finding, commit: str) -> Finding:
    """Failed where Argo CD says that this very commit is applied, and another image is asked for.

    Of an older commit it says nothing: the newest is still to be applied.
    """
    if finding.revision != commit or not any(cause.kind == IMAGE_DRIFT for cause in finding.causes):
        return finding
    return replace(finding, state=State.FAILED)


def absent(finding: Finding) -> Finding:
    """A release whose values name no image: nothing is meant to run."""
    return Finding(
        finding.release, State.ABSENT, finding.wanted, finding.running, finding.sync,
        finding.health, finding.revision, finding.ready, finding.pods, finding.causes,
    )  # fmt: skip


def last_changes(at: CommitTree, environment: str) -> dict[str, int]:
    """When each release's values last changed, by commit time."""
    log = at.git.run(
        "log", "--first-parent", "--max-count=500", "--format=%x1e%ct", "--name-only",
        at.commit, "--", f"values/{environment}",
    ).decode(errors="replace")  # fmt: skip
    changed: dict[str, int] = {}
    for entry in log.split("\x1e")[1:]:
        when, *paths = [line for line in entry.split("\n") if line]
        for path in paths:
            changed.setdefault(tree.release_of(path), int(when))
    return changed


def failing(found: Sequence[Line]) -> bool:
    """Whether any release has failed."""
    return any(line.finding.state is State.FAILED for line in found)


def render(found: Sequence[Line], now: datetime) -> Table:
    """The table; causes stand below their release."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for line in found:
        finding = line.finding
        cells: Mapping[str, str] = {
            "env": line.environment,
            "release": finding.release,
            "state": line.state,
            "wanted": line.wanted.short,
            "running": ", ".join(digest[7:14] for digest in finding.running) or "-",
            "models": _models(line),
            "sync": finding.sync,
            "health": finding.health,
            "pods": f"{finding.ready}/{finding.pods}",
            "endpoints": "-" if line.endpoints is None else f"{line.endpoints}/{finding.pods}",
            "traffic": str(line.traffic),
            "hold": line.hold.owner if line.hold else "-",
            "age": age(now.timestamp() - line.changed) if line.changed is not None else "-",
            "source": line.wanted.revision[:7] or "-",
        }
        texts = [Text(cells[column]) for column in COLUMNS]
        texts[COLUMNS.index("state")].stylize(_COLOURS[finding.state])
        table.add_row(*texts)
    return table


def _models(line: Line) -> str:
    """What Git wants served; what is really served beside it where that is something else."""
    wanted = model_map.short(line.models)
    if isinstance(line.serving, str):
        return wanted if line.serving == "-" else f"{wanted} ({line.serving})"
    served = served_models.in_short(line.serving)
    return served if wanted in (served, "-") else f"wanted {wanted}; served {served}"


def findings(found: Sequence[Finding]) -> Table:
    """What a verdict saw, one release a row."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("release", "state", "running", "sync", "health", "pods"):
        made.add_column(column, overflow="fold")
    for finding in found:
        running = ", ".join(digest[7:14] for digest in finding.running) or "-"
        cells = (
            finding.release, finding.state.value, running, finding.sync, finding.health,
            f"{finding.ready}/{finding.pods}",
        )  # fmt: skip
        made.add_row(*(Text(cell) for cell in cells))
    return made


def explanations(found: Sequence[Line]) -> list[str]:
    """One line per cause and hold, to print below the table."""
    causes = [
        f"{line.environment}/{line.finding.release}: {cause}"
        + (f"; fix: {cause.fix}" if cause.fix else "")
        for line in found
        for cause in line.finding.causes
    ]
    return causes + sorted(
        {f"{line.environment}: on hold, {line.hold}" for line in found if line.hold}
    )


def age(seconds: float) -> str:
    """``45s``, ``12m``, ``7h`` or ``3d``; never negative, whatever the clocks say."""
    seconds = max(0.0, seconds)
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // divisor)}{unit}"
    return f"{int(seconds // 86400)}d"
