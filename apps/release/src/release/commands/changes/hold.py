"""`release hold` and `release unhold`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from release.changes.holds import SetHold, Unhold
from release.commands.frame import committed, now, opened, person
from release.commands.options import (
    DryRunOption,
    EnvOption,
    JsonOption,
    ManifestOptions,
    ServicesOption,
    SigningOptions,
    expanded,
)
from release.values.holds import EVERY, Hold


@expanded
def hold(
    *,
    env: EnvOption,
    reason: Annotated[str, typer.Option("--reason", help="Why; shown to whoever is refused.")],
    service: ServicesOption = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", help="When it ends by itself (UTC); without it, by `unhold`."),
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Whom to ask.")] = None,
    manifests: ManifestOptions,
    signing: SigningOptions,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Forbid changes to an environment, or to some of its releases."""
    with opened(json_output, manifests) as repo:
        end = until.replace(tzinfo=UTC) if until is not None and until.tzinfo is None else until
        made = Hold(tuple(service or (EVERY,)), reason, owner or person(repo), now(), end)
        planner = SetHold(env, made)
        committed(repo, planner, signing, dry_run=dry_run, json_output=json_output)


@expanded
def unhold(
    *,
    env: EnvOption,
    service: ServicesOption = None,
    manifests: ManifestOptions,
    signing: SigningOptions,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """End an environment's holds."""
    with opened(json_output, manifests) as repo:
        planner = Unhold(env, service or ())
        committed(repo, planner, signing, dry_run=dry_run, json_output=json_output)
