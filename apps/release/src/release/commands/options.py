"""Options that commands share, and the frame that turns errors into their sentence."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import stamina
import typer

from release.commands import output
from release.errors import ReleaseError

RepoOption = Annotated[
    str | None,
    typer.Option(
        "--manifest-repo",
        envvar="MANIFEST_REPO",
        help="Clone or URL of the manifest repository; else the repository of this folder.",
    ),
]
BranchOption = Annotated[
    str, typer.Option("--branch", envvar="MANIFEST_BRANCH", help="Branch that Argo CD follows.")
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        envvar="SOURCE_REPO",
        help="Clone of the source, where it is not the manifest repository: orders revisions.",
    ),
]
GitTimeoutOption = Annotated[
    float, typer.Option("--git-timeout", min=1, help="Seconds one git command may take.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be committed.")]
ReadsOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Taken as by every command; this one changes nothing anyway.",
        expose_value=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SignOption = Annotated[bool, typer.Option("--sign", help="Sign the commit (Git's signing key).")]
EnvOption = Annotated[str, typer.Option("--env", help="Environment, like dev.")]
ServicesOption = Annotated[
    list[str] | None, typer.Option("--service", help="Only this release; may be repeated.")
]
ContextOption = Annotated[
    str | None,
    typer.Option("--context", envvar="KUBE_CONTEXT", help="Context of the kubeconfig."),
]
KubeconfigOption = Annotated[
    str | None, typer.Option("--kubeconfig", help="Kubeconfig; else KUBECONFIG, as kubectl does.")
]
ArgocdOption = Annotated[
    str, typer.Option("--argocd-namespace", help="Namespace of the Applications.")
]
GatewayOption = Annotated[
    str,
    typer.Option(
        "--gateway",
        envvar="SLIPWAY_GATEWAY",
        help="Address of the gateway with {host} in it, instead of `platform.gateway.url` "
        "in the values.",
    ),
]
PrometheusOption = Annotated[
    str,
    typer.Option(
        "--prometheus",
        envvar="SLIPWAY_PROMETHEUS",
        help="Where Prometheus answers: a URL, or NAMESPACE/SERVICE:PORT.",
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0, help="Seconds to wait for a verdict.")
]
ApiOption = Annotated[
    bool,
    typer.Option(
        "--github-api", help="Commit by GitHub's API, which signs as the App, instead of a push."
    ),
]
OtherRepoOption = Annotated[
    str | None,
    typer.Option(
        "--manifest-repo", help="Clone or URL to look at instead of what lies in this folder."
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", help="Append results as name=value lines (GITHUB_OUTPUT)."),
]
AllowUnrelatedOption = Annotated[
    bool,
    typer.Option(
        "--allow-unrelated",
        help="Replace a build whose order to the new one cannot be told; never an older one.",
    ),
]


@contextlib.contextmanager
def reported(json_output: bool) -> Iterator[None]:
    """Turn errors into their sentence and exit code."""
    # A retry is no news to the reader; by default each would be logged on standard output.
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        yield
    except ReleaseError as error:
        output.failed(json_output, error)
        raise typer.Exit(int(error.exit)) from error
    except KeyboardInterrupt as error:
        sys.stderr.write("release: interrupted; running the command again finishes it\n")
        raise typer.Exit(130) from error


def now() -> datetime:
    """The time of this run, to the second: what is written can be read back equal."""
    return datetime.now(UTC).replace(microsecond=0)
