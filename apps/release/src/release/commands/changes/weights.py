"""`release weights`: a canary's steps."""

from __future__ import annotations

from typing import Annotated

import typer

from release.changes.weights import Weights
from release.commands.frame import committed, now, opened
from release.commands.options import (
    DryRunOption,
    EnvOption,
    JsonOption,
    ManifestOptions,
    SigningOptions,
    expanded,
)


@expanded
def weights(
    *,
    env: EnvOption,
    service: Annotated[str, typer.Option("--service", help="Service whose requests are split.")],
    variant: Annotated[str, typer.Option("--variant", help="Where the share goes.")],
    weight: Annotated[
        int | None,
        typer.Option(
            "--weight", min=0, max=100, help="Percent; else the next of 5, 25, 50 and 100."
        ),
    ] = None,
    abort: Annotated[
        bool, typer.Option("--abort", help="Send everything back to the service itself.")
    ] = False,
    manifests: ManifestOptions,
    signing: SigningOptions,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Shift a service's split towards a variant, a canary's step, in one commit."""
    with opened(json_output, manifests) as repo:
        planner = Weights(env, service, variant, now(), weight, abort)
        committed(repo, planner, signing, dry_run=dry_run, json_output=json_output)
