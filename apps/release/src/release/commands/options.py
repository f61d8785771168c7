"""Options that commands share: one of its own each, or a group in a dataclass.

Typer knows no groups: `expanded` gives a command the options of the groups that it takes.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from release.changes import transaction
from release.cluster.client import Cluster
from release.git.ancestry import Sources
from release.git.program import Git
from release.git.repository import ManifestRepo, open_repo

if TYPE_CHECKING:
    from release.git.github import GitHub

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
        help="Accepted by every command; this one changes nothing anyway.",
        expose_value=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
SignOption = Annotated[bool, typer.Option("--sign", help="Sign the commit (Git's signing key).")]
EnvOption = Annotated[str, typer.Option("--env", help="Environment, like dev.")]
EnvironmentsOption = Annotated[
    list[str] | None, typer.Option("--env", help="Environment; all when left out.")
]
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
        help="Replace a build whose order to the new one is not known; never an older one.",
    ),
]


@dataclass(frozen=True)
class ManifestOptions:
    """Where the manifests are."""

    manifest_repo: RepoOption = None
    branch: BranchOption = "main"
    git_timeout: GitTimeoutOption = 60.0

    def open(self) -> contextlib.AbstractContextManager[ManifestRepo]:
        """The repository, ready to be fetched."""
        return open_repo(self.manifest_repo, self.branch, timeout=self.git_timeout)


@dataclass(frozen=True)
class SourcedManifestOptions:
    """Where the manifests are, and the source whose history orders builds."""

    manifest_repo: RepoOption = None
    branch: BranchOption = "main"
    source: SourceOption = None
    git_timeout: GitTimeoutOption = 60.0

    def open(self) -> contextlib.AbstractContextManager[ManifestRepo]:
        """The repository of the manifests, ready to be fetched."""
        return open_repo(self.manifest_repo, self.branch, timeout=self.git_timeout)

    @contextlib.contextmanager
    def sources(self, repo: ManifestRepo) -> Iterator[Sources]:
        """Where revisions are looked up: the manifest repository, the source, this folder."""
        with contextlib.ExitStack() as stack:
            clones = [repo.git]
            if self.source is not None:
                other = stack.enter_context(
                    open_repo(self.source, repo.branch, timeout=self.git_timeout)
                )
                other.fetch()
                clones.append(other.git)
            here = Git(Path.cwd(), timeout=self.git_timeout)
            if here.attempt("rev-parse", "--git-dir")[0] == 0:
                clones.append(here)
            yield Sources(clones)


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster is asked."""

    context: ContextOption = None
    kubeconfig: KubeconfigOption = None
    argocd_namespace: ArgocdOption = "argocd"

    def client(self) -> Cluster:
        """A client of its API."""
        return Cluster(self.context, self.kubeconfig, argocd_namespace=self.argocd_namespace)


@dataclass(frozen=True)
class SigningOptions:
    """Who makes a commit, and whether it is signed."""

    sign: SignOption = False
    github_api: ApiOption = False

    def apply(
        self, repo: ManifestRepo, planner: transaction.Planner, *, dry_run: bool
    ) -> transaction.Outcome:
        """Plan, commit and push, as `transaction.apply` does."""
        host = github() if self.github_api else None
        return transaction.apply(repo, planner, dry_run=dry_run, sign=self.sign, host=host)


# What most commands do without is imported where it is used: an HTTP client takes as long to
# import as everything else.
def github() -> GitHub:
    """The repository on GitHub that the environment names."""
    from release.git.github import GitHub  # noqa: PLC0415

    return GitHub.from_environment()


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of each dataclass that it takes as options of their own.

    They stand in the help where the dataclass stands in the command's signature.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            parameters += _of_fields(kind)
        else:
            parameters.append(parameter.replace(annotation=kind))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _of_fields(kind: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=hints[field.name],
        )
