"""The `release` command: from a digest to a verdict, by Git commits."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from release.changes import operations, transaction
from release.changes import pull_request as proposal
from release.changes.rollback import Rollback
from release.checks import plan as check_plan
from release.checks.run import Checks
from release.checks.user_requests import Limit, UserRequests
from release.cluster import snapshots
from release.cluster.client import Cluster
from release.commands import output
from release.commands.changes import model as model_commands
from release.commands.options import (
    AllowUnrelatedOption,
    ApiOption,
    ArgocdOption,
    BranchOption,
    ContextOption,
    DryRunOption,
    EnvOption,
    GatewayOption,
    GitTimeoutOption,
    JsonOption,
    KubeconfigOption,
    OtherRepoOption,
    OutputOption,
    PrometheusOption,
    ReadsOption,
    RepoOption,
    ServicesOption,
    SignOption,
    SourceOption,
    TimeoutOption,
    now,
    reported,
)
from release.commands.setup import doctor
from release.commands.setup.new import app as new_app
from release.commands.setup.version import version_command
from release.diagnosis import explain
from release.diagnosis.releases import Finding
from release.errors import (
    Exit,
    FailedError,
    NotFoundError,
    ReleaseError,
    TimedOutError,
    UnreachableError,
)
from release.git import message as msg
from release.git.ancestry import Sources
from release.git.repository import CommitTree, Git, ManifestRepo, open_repo
from release.live import verified_manifests
from release.live.traffic import IN_CLUSTER, Prometheus
from release.offline import rollback as offline
from release.records import affected as affected_images
from release.records import deployments, history, verdicts
from release.render import diff
from release.status import lines as looked
from release.status import table
from release.status.table import Line
from release.values import references, tree
from release.values.holds import EVERY, Hold
from release.verification import watch as verify
from release.verification.revert import Revert

if TYPE_CHECKING:
    from release.git.github import GitHub
    from release.registry.client import Registry
    from release.registry.signatures import Signer

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
image_app = typer.Typer(no_args_is_help=True, help="The images an environment runs.")
model_app = typer.Typer(no_args_is_help=True, help="The models an environment serves.")
app.add_typer(image_app, name="image")
app.add_typer(new_app, name="new")
app.command("version")(version_command)
app.add_typer(model_app, name="model")
model_app.command("add")(model_commands.add)
model_app.command("list")(model_commands.list_models)
model_app.command("remove")(model_commands.remove)
registry_app = typer.Typer(no_args_is_help=True, help="The registry that images are pushed to.")
app.add_typer(registry_app, name="registry")
registry_app.command("create")(doctor.registry_create)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command; a failure is one sentence and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    app()


def _terminated(number: int, _: FrameType | None) -> None:
    """End in good order: keys in scratch folders and Jobs in the cluster are cleared away."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def person(repo: ManifestRepo | None = None) -> str:
    """Who is doing this: the CI's actor, Git's user, or the login name."""
    if actor := os.environ.get("GITHUB_ACTOR"):
        return actor
    if repo is not None:
        code, out, _ = repo.git.attempt("config", "user.name")
        if code == 0 and out.strip():
            return out.decode(errors="replace").strip()
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"


def host(github_api: bool) -> GitHub | None:
    """Who makes the commits: GitHub when asked to, else this clone."""
    return github() if github_api else None


# What most commands do without is imported where it is used: an HTTP client, cryptography and
# pydantic together take as long to import as everything else.
def github() -> GitHub:
    """The repository on GitHub that the environment names."""
    from release.git.github import GitHub  # noqa: PLC0415

    return GitHub.from_environment()


def registry() -> Registry:
    """What asks registries."""
    from release.registry.client import Registry  # noqa: PLC0415

    return Registry()


def signer(key: Path | None, identity: str, issuer: str) -> Signer:
    """Whose signature an image must carry."""
    from release.registry import signatures  # noqa: PLC0415

    return signatures.signer(key, identity, issuer)


@contextlib.contextmanager
def sources(repo: ManifestRepo, source: str | None, timeout: float) -> Iterator[Sources]:
    """Where revisions are looked up: the manifest repository, the source, this folder."""
    with contextlib.ExitStack() as stack:
        clones = [repo.git]
        if source is not None:
            other = stack.enter_context(open_repo(source, repo.branch, timeout=timeout))
            other.fetch()
            clones.append(other.git)
        here = Git(Path.cwd(), timeout=timeout)
        if here.attempt("rev-parse", "--git-dir")[0] == 0:
            clones.append(here)
        yield Sources(clones)


@image_app.command("set")
def image_set(
    *,
    env: EnvOption,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", help="NAME=REPOSITORY:TAG@sha256:…; may be repeated."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", help="Folder of files image-NAME, each with one REPOSITORY:TAG@sha256:…."
        ),
    ] = None,
    revision: Annotated[
        str, typer.Option("--revision", envvar="SOURCE_REVISION", help="Commit they are built of.")
    ],
    check_registry: Annotated[
        bool,
        typer.Option(
            "--check-registry/--no-check-registry", help="Ask the registry for the digests."
        ),
    ] = True,
    require_signature: Annotated[
        bool,
        typer.Option("--require-signature", help="Refuse images that the signer has not signed."),
    ] = False,
    signature_key: Annotated[
        Path | None,
        typer.Option(
            "--signature-key", envvar="SIGNATURE_KEY", help="Signer, by public key (PEM file)."
        ),
    ] = None,
    signature_identity: Annotated[
        str,
        typer.Option(
            "--signature-identity",
            envvar="SIGNATURE_IDENTITY",
            help="Signer without a key, by the certificate's identity; checked by cosign.",
        ),
    ] = "",
    signature_issuer: Annotated[
        str,
        typer.Option(
            "--signature-issuer",
            envvar="SIGNATURE_ISSUER",
            help="Who vouches for that identity.",
        ),
    ] = "https://token.actions.githubusercontent.com",
    allow_unrelated: AllowUnrelatedOption = False,
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    source: SourceOption = None,
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write new images into an environment, several in one commit.

    An image named `proxy` is written for every release that runs it (proxy and worker).
    A release on hold or at a newer build is left alone; if that leaves nothing, the exit
    code is 4 (held) or 3 (superseded).
    """
    with reported(json_output):
        wanted = dict(references.image(text, revision) for text in [*(image or ())])
        if images is not None:
            wanted |= dict(references.image(text, revision) for text in image_files(images))
        if not wanted:
            raise ReleaseError("No image is named.", fix="pass --image, or --images FOLDER")
        wanted_signer = (
            signer(signature_key, signature_identity, signature_issuer)
            if require_signature
            else None
        )
        for new in wanted.values():
            if check_registry:
                registry().require(new)
            if wanted_signer is not None:
                wanted_signer.require(registry(), new)
        with (
            open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
            sources(repo, source, git_timeout) as order,
        ):
            planner = operations.ImageSet(env, wanted, order, now(), allow_unrelated)
            result = transaction.apply(
                repo, planner, dry_run=dry_run, sign=sign, host=host(github_api)
            )
        output.written(output_file, {"commit": result.commit or ""})
        output.show(json_output, output.outcome(result, dry_run))


@image_app.command("parse")
def image_parse(
    *,
    file: Annotated[Path, typer.Argument(help="File image-NAME with one reference in it.")],
    output_file: OutputOption = None,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Read what `make image` printed: reference, repository, tag and digest."""
    with reported(json_output):
        name, read = references.image(image_file(file), "0" * 40)
        values = {
            "name": name,
            "reference": f"{read.repository}:{read.tag}@{read.digest}",
            "repository": read.repository,
            "tag": read.tag,
            "digest": read.digest,
        }
        output.written(output_file, values)
        output.printed(json_output, values, values["reference"])


def image_file(path: Path) -> str:
    """``NAME=REFERENCE`` from a file image-NAME."""
    try:
        lines = path.read_text().split()
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read: {error.strerror}.") from error
    if not path.name.startswith("image-") or not lines:
        raise ReleaseError(
            f"{path} is no image's file.", fix="name it image-NAME, with the reference in it"
        )
    return f"{path.name.removeprefix('image-')}={lines[-1]}"


def image_files(folder: Path) -> list[str]:
    """``NAME=REFERENCE`` for every file image-NAME of a folder."""
    return [image_file(path) for path in sorted(folder.glob("image-*"))]


@model_app.command("set")
def model_set(
    *,
    env: EnvOption,
    name: Annotated[str, typer.Option("--name", help="Model, like digits.")] = "",
    version: Annotated[str, typer.Option("--version", help="Its version, like 3.")] = "",
    uri: Annotated[
        str, typer.Option("--uri", help="Where it lies, like s3://models/digits/3.")
    ] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="Digest of its model.json.")] = "",
    published: Annotated[
        Path | None,
        typer.Option("--from", help="JSON of `trainer publish --json`, instead of those four."),
    ] = None,
    release: Annotated[
        str, typer.Option("--release", help="Release that serves it.")
    ] = "inference",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write a new model into an environment."""
    with reported(json_output):
        if published is not None:
            name, version, uri, sha256 = model_file(published)
        model = references.model(name, version, uri, sha256)
        with open_repo(manifest_repo, branch, timeout=git_timeout) as repo:
            planner = operations.ModelSet(env, release, model, now())
            result = transaction.apply(
                repo, planner, dry_run=dry_run, sign=sign, host=host(github_api)
            )
        output.written(output_file, {"commit": result.commit or ""})
        output.show(json_output, output.outcome(result, dry_run))


def model_file(path: Path) -> tuple[str, str, str, str]:
    """Name, version, uri and sha256 out of what `trainer publish --json` printed."""
    try:
        content = json.loads(path.read_text())
        return tuple(str(content[key]) for key in ("name", "version", "uri", "sha256"))  # type: ignore[return-value]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            f"{path} does not say which model was published ({error!r}).",
            fix="pass the output of `trainer publish --json`",
        ) from error


@app.command()
def promote(
    *,
    source_env: Annotated[str, typer.Option("--from", help="Environment to copy from.")],
    target_env: Annotated[str, typer.Option("--to", help="Environment to copy to.")],
    service: ServicesOption = None,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="Commit of the state that is meant; refused if it moved on."),
    ] = None,
    verify_first: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Get a verdict on what is copied first; by default when Git has none.",
        ),
    ] = None,
    override: Annotated[
        str,
        typer.Option("--override", help="Why this goes without verdict, soak time or window."),
    ] = "",
    timeout: TimeoutOption = 300.0,
    allow_unrelated: AllowUnrelatedOption = False,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    argocd_namespace: ArgocdOption = "argocd",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    source: SourceOption = None,
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    pull_request: Annotated[
        bool,
        typer.Option("--pull-request", help="Open a pull request, or renew the open one."),
    ] = False,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Copy images and models, by digest, from one environment to the next.

    Only what has a verdict: what `release verify` saw healthy there, for the soak time and in
    the windows that values/promotion.yaml sets for the target.
    """
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
        sources(repo, source, git_timeout) as order,
    ):
        if pull_request and github_api:
            raise ReleaseError(
                f"--github-api commits to {branch}; a pull request's branch is pushed.",
                fix="leave one of --github-api and --pull-request out",
            )
        known = verdicts.Log([]) if override else verdicts.read(repo)
        if verify_first is None:
            target = verify.target(repo, source_env, expect)
            verify_first = not override and known.verified_since(source_env, target.files) is None
        if verify_first:
            cluster = Cluster(context, kubeconfig, argocd_namespace=argocd_namespace)
            target = verify.target(repo, source_env, expect)
            deployed(repo, cluster, target, timeout, dry_run=dry_run)
            known = verdicts.read(repo)
            if dry_run:  # the verdict that would be kept
                seen = verdicts.make(
                    source_env, "deployed", target.files, by=person(repo), now=now()
                )
                known = verdicts.Log([*known.entries, seen])
        planner = operations.Promote(
            source_env,
            target_env,
            order,
            now(),
            services=service or (),
            expect=expect,
            branch=branch,
            allow_unrelated=allow_unrelated,
            verdicts=known,
            override=override,
        )
        if pull_request and not dry_run:
            proposed(repo, planner, output_file, sign=sign, json_output=json_output)
            return
        result = transaction.apply(repo, planner, dry_run=dry_run, sign=sign, host=host(github_api))
        output.written(output_file, {"commit": result.commit or ""})
        output.show(json_output, output.outcome(result, dry_run))


def proposed(
    repo: ManifestRepo,
    planner: operations.Promote,
    output_file: Path | None,
    *,
    sign: bool,
    json_output: bool,
) -> None:
    """Put a promotion on a branch and open its pull request, or renew the one that is open."""
    forge = github()
    branch = f"promote/{planner.source}-to-{planner.target}"
    made = proposal.propose(repo, planner, branch, sign=sign)
    content: dict[str, object] = {"branch": branch, "commit": made.commit, "pull_request": None}
    if made.commit is None:
        output.printed(json_output, content, *made.plan.notes, "Nothing to change.")
        return
    text = proposal.body(repo, made, planner.source, planner.target, planner.sources)
    number, url, reused = forge.pull_request(branch, repo.branch, made.plan.message.subject, text)
    output.written(output_file, {"pull_request": str(number), "url": url})
    content |= {"pull_request": number, "url": url, "reused": reused}
    output.printed(json_output, content, f"{'Renewed' if reused else 'Opened'} {url}")


@app.command()
def rollback(
    *,
    env: EnvOption,
    service: ServicesOption = None,
    to: Annotated[str | None, typer.Option("--to", help="Commit whose state is restored.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the hold.")] = "",
    without_git: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Git is down: apply the last verified manifests, kept in the cluster, straight "
            "to it, and have Argo CD wait until `release reconcile`.",
        ),
    ] = False,
    verify_after: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Wait for the verdict on what was restored, and end operations that are stuck.",
        ),
    ] = False,
    timeout: TimeoutOption = 300.0,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    argocd_namespace: ArgocdOption = "argocd",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    output_file: OutputOption = None,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Restore an earlier state of an environment in one commit, and put a hold on it.

    Images, models and configuration go back together, to the newest earlier state that has a
    verdict (any earlier one where no verdicts are kept). Charts and values/services stay: all
    environments share them.
    """
    if without_git:
        with reported(json_output):
            cluster = Cluster(context, kubeconfig, argocd_namespace=argocd_namespace)
            at = now().isoformat(timespec="seconds")
            going = offline.OfflineRollback(
                cluster, env, person(), at, reason, service or (), to, timeout
            )
            done = going.run(dry_run=dry_run)
            with output.before(json_output, output.offline(env, done, dry_run)):
                if verify_after and not dry_run:
                    found = going.wait(going.target(done.mark.commit), done.releases)
                    shown(json_output, found)
        return
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        try:
            known = verdicts.read(repo)
        except UnreachableError as error:
            error.fix += "; or restore what the cluster keeps with --offline"
            raise
        planner = Rollback(
            env,
            person(repo),
            reason,
            now(),
            services=service or (),
            to=to,
            verified=lambda state: known.on_state(
                env, deployments.files_at(CommitTree(repo.git, state.logged.commit), env)
            ),
            any_verdicts=any(entry.verdict == "deployed" for entry in known.of(env)),
        )
        result = transaction.apply(repo, planner, dry_run=dry_run, sign=sign, host=host(github_api))
        output.written(output_file, {"commit": result.commit or ""})
        with output.before(json_output, output.outcome(result, dry_run)):
            if verify_after and not dry_run:
                cluster = Cluster(context, kubeconfig, argocd_namespace=argocd_namespace)
                target = verify.target(repo, env, result.commit)
                found = deployed(repo, cluster, target, timeout, preempt=True)
                shown(json_output, found)


@app.command()
def reconcile(
    *,
    env: EnvOption,
    discard: Annotated[
        bool, typer.Option("--discard", help="Follow Git as it is instead of writing to it.")
    ] = False,
    verify_after: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Wait for the verdict.")
    ] = True,
    timeout: TimeoutOption = 300.0,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    argocd_namespace: ArgocdOption = "argocd",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write to Git what `rollback --offline` restored, and have Argo CD follow Git again.

    The commit is a rollback's, with its hold. Only then Argo CD is let go on; it is never at a
    state that nobody chose.
    """
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        cluster = Cluster(context, kubeconfig, argocd_namespace=argocd_namespace)
        marked = offline.marked(cluster, env)
        commits: list[str] = []
        for mark in () if discard else dict.fromkeys(marked.values()):
            planner = offline.Reconcile(
                mark,
                Rollback(
                    env, mark.by, mark.reason or "rolled back while Git was away", now(),
                    services=mark.services, to=mark.commit,
                ),
            )  # fmt: skip
            result = transaction.apply(
                repo, planner, dry_run=dry_run, sign=sign, host=host(github_api)
            )
            commits += [result.commit] if result.commit else []
        target = verify.target(repo, env, None)
        if not dry_run:
            offline.let_go(cluster, env, list(marked))
        content = {
            "environment": env,
            "dry_run": dry_run,
            "releases": {release: str(mark) for release, mark in marked.items()},
            "commits": commits,
        }
        told = [f"{release}: {mark}" for release, mark in marked.items()]
        ended = (
            f"Argo CD follows Git again, at {target.commit[:12]}."
            if marked
            else f"Nothing in {env} was rolled back offline."
        )
        told.append("Dry run: nothing was changed." if dry_run else ended)
        with output.before(json_output, output.Said(content, told)):
            if marked and verify_after and not dry_run:
                found = deployed(repo, cluster, target, timeout)
                shown(json_output, found)


@app.command("validate")
def validate_command(
    *,
    root: Annotated[
        Path,
        typer.Argument(help="Folder with charts, values and argocd.", exists=True, file_okay=False),
    ] = Path(),
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Environment; all when left out.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="Commit that this is to be merged into: changes to what is held there are "
            "refused.",
        ),
    ] = None,
    manifest_repo: OtherRepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Render every release of every environment and say what is wrong, file, key and line.

    Looked at is the folder as it is, committed or not, or the newest commit of another
    repository.
    """
    from release import validate  # noqa: PLC0415
    from release.render import helm  # noqa: PLC0415

    with reported(json_output), contextlib.ExitStack() as stack:
        started = time.monotonic()
        if manifest_repo is not None:
            if base is not None:
                raise ReleaseError(
                    "--base compares the folder at hand, --manifest-repo looks elsewhere.",
                    fix="leave one of them out",
                )
            repo = stack.enter_context(open_repo(manifest_repo, branch, timeout=git_timeout))
            root = stack.enter_context(helm.exported(repo.git, repo.fetch()))
        report = validate.validate(root, env or (), base)
        seconds = time.monotonic() - started
        output.printed(
            json_output,
            {
                "findings": [vars(finding) for finding in report.findings],
                "releases": report.rendered,
                "manifests": report.manifests,
                "seconds": round(seconds, 2),
                "notes": list(report.notes),
            },
            *(str(finding) for finding in report.findings),
            *report.notes,
            f"{report.rendered} releases, {report.manifests} manifests, "
            f"{len(report.findings)} findings in {seconds:.1f} s.",
        )
        if report.findings:
            raise typer.Exit(int(Exit.ERROR))


@app.command("diff")
def diff_command(
    *,
    base: Annotated[str, typer.Argument(help="Commit to compare from.")],
    head: Annotated[str, typer.Argument(help="Commit to compare to.")] = "HEAD",
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Environment; all when left out.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Also write one comment's worth of Markdown.")
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code/--no-exit-code", help="End with 2 when there is a change.")
    ] = True,
    manifest_repo: OtherRepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """What two commits of this clone would apply, compared: 0 same, 2 changed, 1 error.

    Of another repository HEAD is the newest commit of its branch.
    """
    with reported(json_output), contextlib.ExitStack() as stack:
        git, newest = Git(Path.cwd(), timeout=git_timeout), "HEAD"
        if manifest_repo is not None:
            repo = stack.enter_context(open_repo(manifest_repo, branch, timeout=git_timeout))
            git, newest = repo.git, repo.fetch()
        commits = []
        for name in (base, head):
            asked = newest + name.removeprefix("HEAD") if name.startswith("HEAD") else name
            commit = git.resolve(asked)
            if commit is None:
                raise ReleaseError(f"The clone has no commit {name!r}.", fix="fetch it first")
            commits.append(commit)
        found = diff.compare(git, commits[0], commits[1], env or ())
        title = f"What {commits[1][:12]} changes compared with {commits[0][:12]}"
        if markdown is not None:
            markdown.write_text(diff.markdown(found, title))
        content = {
            "base": commits[0],
            "head": commits[1],
            "applications": [
                {
                    "name": one.name,
                    "error": one.error,
                    "resources": [vars(resource) for resource in one.resources],
                }
                for one in found
            ],
        }
        summary = (
            f"{len(found)} applications change." if found else "Nothing that is applied changes."
        )
        said = output.Said(content, [*map(output.difference, found), summary])
        with output.before(json_output, said):
            broken = [one for one in found if one.error]
            if broken:
                raise ReleaseError(
                    f"{', '.join(one.name for one in broken)} cannot be rendered: "
                    f"{broken[0].error}",
                    fix="`release validate` names file, key and line",
                )
        if found and exit_code:
            raise typer.Exit(int(Exit.CHANGED))


@app.command()
def comment(
    *,
    pull_request: Annotated[int, typer.Option("--pull-request", help="Its number.")],
    file: Annotated[Path, typer.Option("--file", help="Markdown of `release diff --markdown`.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the comment, write none.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a diff as a comment on a pull request, in place of the one before."""
    with reported(json_output):
        try:
            text = file.read_text()[: diff.COMMENT_LIMIT]
        except (OSError, UnicodeError) as error:
            raise NotFoundError(
                f"{file} cannot be read: {error}.", fix="`release diff --markdown` writes it"
            ) from error
        if dry_run:
            output.printed(json_output, {"dry_run": True, "url": None, "text": text}, text)
            return
        url = github().comment(pull_request, text, diff.MARKER)
        output.printed(json_output, {"url": url}, url)


@app.command()
def affected(
    *,
    env: EnvOption = "dev",
    revision: Annotated[str, typer.Option("--revision", help="Commit of this clone.")] = "HEAD",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    output_file: OutputOption = None,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """Images to build: those whose sources changed since what an environment runs."""
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        at = repo.tree(repo.fetch())
        found = affected_images.affected(at, env, Git(Path.cwd()), revision)
        output.written(output_file, {"images": json.dumps([one.name for one in found])})
        content = {"images": [vars(one) for one in found]}
        output.printed(json_output, content, *(f"{one.name}: {one.why}" for one in found))


@app.command("verify")
def verify_command(
    *,
    env: EnvOption,
    commit: Annotated[
        str | None, typer.Option("--commit", help="Commit to wait for; else the newest deployment.")
    ] = None,
    service: ServicesOption = None,
    timeout: TimeoutOption = 300.0,
    poll: Annotated[
        float, typer.Option("--poll", min=0.05, help="Seconds between two looks.")
    ] = 1.0,
    run_cronjobs: Annotated[
        bool,
        typer.Option(
            "--run-cronjobs/--no-run-cronjobs",
            help="Run once as a Job what no pod runs, a CronJob's image or that of a Deployment "
            "scaled to zero: being applied proves nothing.",
        ),
    ] = True,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Keep the verdict in refs/notes/verdicts.")
    ] = True,
    revert_on_failure: Annotated[
        bool,
        typer.Option(
            "--revert-on-failure",
            help="Take the deployment back when it fails, unless anybody changed or holds it.",
        ),
    ] = False,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    argocd_namespace: ArgocdOption = "argocd",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Ask each service by its `check` and each model with its samples.",
        ),
    ] = True,
    gateway: GatewayOption = "",
    failed_share: Annotated[
        float,
        typer.Option(
            "--failed-share",
            min=0,
            max=1,
            help="Share of users' requests since the commit that may fail (500 and above) or be "
            "refused (429, 503); 1 fails no verdict.",
        ),
    ] = Limit.share,
    least_requests: Annotated[
        int,
        typer.Option(
            "--least-requests", min=1, help="Fewer requests of users than this are not judged."
        ),
    ] = Limit.least,
    prometheus: PrometheusOption = IN_CLUSTER,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only look: ask nothing of Argo CD nor of the services, run no Job (what one "
            "would prove is taken for proved), record nothing.",
        ),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Wait for the verdict: 0 deployed, 6 failed, 7 timed out, 3 superseded, 8 not found."""
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        cluster = Cluster(context, kubeconfig, argocd_namespace=argocd_namespace)
        target = verify.target(repo, env, commit, service or ())
        requests: UserRequests | None = None
        if check and not dry_run:
            limit = Limit(failed_share, least_requests)
            requests = user_requests(repo, cluster, target, limit, prometheus)
        try:
            found = deployed(
                repo,
                cluster,
                target,
                timeout,
                poll=poll,
                run_cronjobs=run_cronjobs,
                record=record,
                dry_run=dry_run,
                check=check,
                gateway=gateway,
                requests=requests,
            )
        except FailedError as error:
            if revert_on_failure:
                error.message += f" {reverted(repo, target, error.message, dry_run=dry_run)}"
            raise
        output.printed(
            json_output,
            {
                "verdict": "deployed",
                "environment": env,
                "commit": target.commit,
                "releases": [
                    {"release": f.release, "state": f.state.value, "running": list(f.running)}
                    for f in found
                ],
                "requests": requests.as_json() if requests is not None else None,
            },
            table.findings(found),
            *(requests.notes() if requests is not None else ()),
            f"{env} at {target.commit[:12]}: deployed.",
        )


def user_requests(
    repo: ManifestRepo,
    cluster: Cluster,
    target: verify.Target,
    limit: Limit | None = None,
    prometheus: str = IN_CLUSTER,
) -> UserRequests:
    """What counts the requests of users since a commit."""
    at = repo.tree(target.commit)
    called = check_plan.read(at, target.environment, target.services).addresses
    metrics = Prometheus(cluster, prometheus)
    return UserRequests(
        cluster,
        target.environment,
        called,
        float(repo.git.text("show", "--no-patch", "--format=%ct", target.commit)),
        limit or Limit(),
        metrics if called and metrics.found() else None,
    )


def shown(json_output: bool, found: list[Finding]) -> None:
    """Print what runs after a command; its JSON is the command's own."""
    if not json_output:
        output.printed(json_output, {}, table.findings(found))


def deployed(
    repo: ManifestRepo,
    cluster: Cluster,
    target: verify.Target,
    timeout: float,
    *,
    poll: float = 1.0,
    run_cronjobs: bool = True,
    record: bool = True,
    preempt: bool = False,
    dry_run: bool = False,
    check: bool = True,
    gateway: str = "",
    requests: UserRequests | None = None,
) -> list[Finding]:
    """Wait for a verdict and keep it; the findings of a deployment that succeeded.

    A dry run writes neither to the cluster nor to Git.
    """
    record = record and not dry_run
    verdict, causes = "deployed", [""]
    checks: Checks | None = None
    if check and not dry_run:
        at = repo.tree(target.commit)
        plan = check_plan.read(at, target.environment, target.services, gateway)
        if repo.git.resolve(f"{target.commit}^") is not None:
            before = repo.tree(f"{target.commit}^")
            gone = check_plan.hosts_taken_out(before, at, target.environment)
            notes = [
                f"{host} is answered 404 from now on: it is no host any more." for host in gone
            ]
            plan = replace(plan, notes=(*plan.notes, *notes))
        checks = Checks(
            cluster, plan, verified_manifests.manifests(cluster, at, target.environment)
        )
        requests = requests or user_requests(repo, cluster, target)
    try:
        watch = verify.Watch(
            repo,
            cluster,
            target,
            timeout=timeout,
            poll=poll,
            run_cronjobs=run_cronjobs,
            preempt=preempt,
            dry_run=dry_run,
            checks=checks,
            requests=requests,
        )
        found = watch.wait()
        for note in checks.notes if checks is not None else ():
            output.warned(note)
        if not target.services and not dry_run:
            kept(repo, cluster, target)
        return found
    except (FailedError, TimedOutError) as error:
        verdict = "failed" if isinstance(error, FailedError) else "timed out"
        causes = [error.message]
        raise
    except BaseException:
        record = False
        raise
    finally:
        # A verdict on some services says nothing of the environment.
        if record and not target.services:
            made = verdicts.make(
                target.environment,
                verdict,
                target.files,
                by=person(repo),
                now=now(),
                causes=[cause for cause in causes if cause],
            )
            try:
                verdicts.record(repo, target.commit, made)
            except ReleaseError as error:
                output.warned(f"The verdict is not recorded: {error}")


def kept(repo: ManifestRepo, cluster: Cluster, target: verify.Target) -> None:
    """Keep what was just seen healthy in the cluster, for `rollback --offline`."""
    env, logged = target.environment, deployments.logged(repo.git, target.commit)
    faulty: list[str] = []
    if (restored := logged.first(msg.RESTORES)) and repo.git.resolve(restored):
        faulty = repo.git.text("rev-list", f"{restored}..{target.commit}").split()
    try:
        manifests = snapshots.captured(cluster, cluster.applications(env))
        made = snapshots.Snapshot(env, target.commit, person(repo), manifests)
        snapshots.keep(cluster, made, faulty)
    except ReleaseError as error:
        output.warned(f"This deployment is not kept for `rollback --offline`: {error}")


def reverted(
    repo: ManifestRepo, target: verify.Target, reason: str, *, dry_run: bool = False
) -> str:
    """Take a failed deployment back; a sentence on what came of it."""
    parent = f"{target.commit}^"
    touched = repo.git.text(
        "diff", "--name-only", parent, target.commit, "--", f"values/{target.environment}"
    ).split()
    services = sorted(set(map(tree.release_of, touched)))
    planner = Rollback(
        target.environment, person(repo), reason, now(), services=services, to=parent, hold=False
    )
    try:
        result = transaction.apply(repo, Revert(target, planner), dry_run=dry_run)
    except ReleaseError as error:
        return f"It was not reverted: {error.message}"
    if dry_run and result.plan.edits:
        return f"It would be reverted to what was before {target.commit[:12]}."
    return f"It was reverted by {result.commit}." if result.commit else "Nothing to revert."


@app.command()
def status(
    *,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Environment; all when left out.")
    ] = None,
    service: ServicesOption = None,
    prometheus: PrometheusOption = IN_CLUSTER,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.5, help="Seconds between looks with --watch.")
    ] = 2.0,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    argocd_namespace: ArgocdOption = "argocd",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """What is wanted, what runs, and what is wrong; exit code 6 when a release has failed.

    Traffic is that of the last five minutes where there is a Prometheus; else --service shows what
    the pods of a release have counted since they started.
    """
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        cluster = Cluster(context, kubeconfig, argocd_namespace=argocd_namespace)

        def look() -> list[Line]:
            at = repo.tree(repo.fetch())
            environments = env or tree.environments(at)
            for environment in environments:
                tree.require_environment(at, environment)
            with ThreadPoolExecutor(len(environments) or 1) as pool:
                seen = list(
                    pool.map(
                        lambda name: cluster.observe(name, list(tree.releases(at, name))),
                        environments,
                    )
                )
            metrics = Prometheus(cluster, prometheus)
            found = metrics if metrics.found() else None
            return [
                replace(line, finding=explain.with_reasons(cluster, environment, line.finding))
                for environment, one in zip(environments, seen, strict=True)
                for line in looked.lines(
                    cluster, at, environment, one, now(), named=service or (), prometheus=found
                )
            ]

        found = look()
        if watch and not json_output:
            with Live(table.render(found, now()), console=Console()) as live:
                while True:
                    time.sleep(interval)
                    found = look()
                    notes = [Text(text) for text in table.explanations(found)]
                    live.update(Group(table.render(found, now()), *notes))
        output.printed(
            json_output,
            {"releases": [line.as_json() for line in found]},
            table.render(found, now()),
            *table.explanations(found),
        )
        if table.failing(found):
            raise typer.Exit(int(Exit.FAILED))


@app.command()
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
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Forbid changes to an environment, or to some of its releases."""
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        end = until.replace(tzinfo=UTC) if until is not None and until.tzinfo is None else until
        made = Hold(tuple(service or (EVERY,)), reason, owner or person(repo), now(), end)
        result = transaction.apply(
            repo, operations.SetHold(env, made), dry_run=dry_run, sign=sign, host=host(github_api)
        )
        output.show(json_output, output.outcome(result, dry_run))


@app.command()
def unhold(
    *,
    env: EnvOption,
    service: ServicesOption = None,
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """End an environment's holds."""
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        result = transaction.apply(
            repo,
            operations.Unhold(env, service or ()),
            dry_run=dry_run,
            sign=sign,
            host=host(github_api),
        )
        output.show(json_output, output.outcome(result, dry_run))


@app.command()
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
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    sign: SignOption = False,
    github_api: ApiOption = False,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Shift a service's split towards a variant, a canary's step, in one commit."""
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        planner = operations.Weights(env, service, variant, now(), weight, abort)
        result = transaction.apply(repo, planner, dry_run=dry_run, sign=sign, host=host(github_api))
        output.show(json_output, output.outcome(result, dry_run))


@app.command("history")
def history_command(
    *,
    env: EnvOption,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Newest so many.")] = 20,
    applied: Annotated[
        bool,
        typer.Option("--applied", help="Ask the cluster too when Argo CD applied each of them."),
    ] = False,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    argocd_namespace: ArgocdOption = "argocd",
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    git_timeout: GitTimeoutOption = 60.0,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """The deployment log of an environment, out of Git, newest first.

    With --applied also when Argo CD applied it, as far back as it remembers (ten syncs).
    """
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
    ):
        at = repo.tree(repo.fetch())
        tree.require_environment(at, env)
        found = history.history(repo.git, at.commit, env, verdicts.read(repo), limit)
        if applied:
            cluster = Cluster(context, kubeconfig, argocd_namespace=argocd_namespace)
            found = history.applied(repo.git, at.commit, found, cluster.applications(env))
        rows = [
            (
                one.commit[:12],
                moment(one.when),
                *([moment(one.applied_at)] if applied else []),
                one.operation,
                one.services or "-",
                ", ".join(revision[:7] for revision in one.revisions) or "-",
                one.verdict or "-",
                one.by,
                one.reason or (f"restores {one.restores[:12]}" if one.restores else ""),
            )
            for one in found
        ]
        columns = (
            "commit", "when (UTC)", *(["applied (UTC)"] if applied else []), "what", "services",
            "source", "verdict", "by", "why",
        )  # fmt: skip
        content = {"environment": env, "deployments": [vars(one) for one in found]}
        output.printed(json_output, content, output.table(columns, rows))


def moment(seconds: float | None) -> str:
    """A time for tables; `-` for none."""
    if seconds is None:
        return "-"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


@app.command("metrics")
def metrics_command(
    *,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Environment; all when left out.")
    ] = None,
    days: Annotated[float, typer.Option("--days", min=0.01, help="Over the last so many.")] = 30.0,
    manifest_repo: RepoOption = None,
    branch: BranchOption = "main",
    source: SourceOption = None,
    git_timeout: GitTimeoutOption = 60.0,
    dry_run: ReadsOption = False,
    json_output: JsonOption = False,
) -> None:
    """The four DORA figures per environment: frequency, lead time, failures, time to restore."""
    with (
        reported(json_output),
        open_repo(manifest_repo, branch, timeout=git_timeout) as repo,
        sources(repo, source, git_timeout) as known,
    ):
        at = repo.tree(repo.fetch())
        log = verdicts.read(repo)
        made = []
        for name in env or tree.environments(at):
            tree.require_environment(at, name)
            entries = history.history(repo.git, at.commit, name, log)
            times = history.commit_times(entries, known)
            made.append(history.metrics(name, entries, times, now().timestamp(), days))
        rows = [
            (
                one.environment,
                str(one.deployments),
                f"{one.per_day:.2f}",
                table.age(one.lead_seconds) if one.lead_seconds is not None else "-",
                f"{one.failure_rate:.0%}" if one.failure_rate is not None else "-",
                table.age(one.restore_seconds) if one.restore_seconds is not None else "-",
            )
            for one in made
        ]
        columns = ("env", "deployments", "per day", "lead time", "failures", "time to restore")
        content = {"days": days, "environments": [vars(one) for one in made]}
        output.printed(json_output, content, output.table(columns, rows))


__all__ = ["Exit", "app", "main"]

if __name__ == "__main__":
    main()
