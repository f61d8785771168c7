"""Brings a commit of the source into the one-machine manifest repo, as a merge to main does."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from flow import command
from flow.errors import FlowError
from release.errors import ReleaseError
from release.values import model_map, tree
from release.values.folder import Folder

# The address in the committed files, which whoever adopts Slipway replaces by their own.
PLACEHOLDER_URL = "https://github.com/your-organisation/slipway.git"
RELEASED = ("values/", "argocd/")
"""What `release` commits in the manifest repo as well."""
IDENTITY = ("-c", "user.name=slipway", "-c", "user.email=slipway@localhost")


def publish(source: Path, manifest_repo: str, url_in_cluster: str) -> str:
    """Merge the HEAD of ``source`` into main of ``manifest_repo``; return main's commit.

    ``manifest_repo`` is the path of a bare repo, or a URL.
    Releases that were committed there stay, as they do when people merge to a repo that a bot
    writes to. Argo CD's files are pointed at ``url_in_cluster``. FlowError where both sides
    changed the same lines.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-source-") as folder:
        return _publish(source, manifest_repo, url_in_cluster, Path(folder) / "clone")


def _publish(source: Path, manifest_repo: str, url: str, clone: Path) -> str:
    def git(*arguments: str) -> str:
        return command.run("git", "-C", str(clone), *IDENTITY, *arguments).strip()

    command.run("git", "clone", "--quiet", manifest_repo, str(clone))
    git("fetch", "--quiet", str(source), "HEAD")
    wanted = git("rev-parse", "FETCH_HEAD")
    main = command.run(
        *("git", "-C", str(clone), "rev-parse", "--quiet", "--verify", "origin/main"),
        accepted=(0, 1),
    ).strip()
    if not main:
        git("checkout", "--quiet", "-b", "main", wanted)
    else:
        contained = command.run(
            *("git", "-C", str(clone), "branch", "--remotes", "--contains", wanted),
            accepted=(0, 129),
        )
        if "origin/main" in contained:
            return main
        git("checkout", "--quiet", "-B", "main", main)
        _models_as_maps(clone, git, wanted)
        # Merged with the address as it is in the source, so that it is never in conflict.
        if _replace(clone, url, PLACEHOLDER_URL):
            git("commit", "--quiet", "--all", "--message=Take the address back for the merge")
        try:
            git("merge", "--quiet", "--no-edit", "--allow-unrelated-histories", wanted)
        except FlowError as error:
            both = git("diff", "--name-only", "--diff-filter=U").splitlines()
            maps = [path for path in both if path.endswith(tree.MODEL_SUFFIX)]
            for path in maps:  # what runs stays, as in every file that `release` writes
                git("checkout", "--quiet", "--ours", "--", path)
                git("add", path)
            both = [path for path in both if path not in maps]
            if not (both or maps) or any(path.startswith(RELEASED) for path in both):
                raise FlowError(
                    f"{wanted[:12]} cannot be merged into the manifest repo at {manifest_repo}:\n"
                    f"{error}\nmerge it by hand: git pull {manifest_repo} main"
                ) from error
            _take_sources(git, both, wanted)
    _replace(clone, PLACEHOLDER_URL, url)
    git("add", "--all")
    written = git("write-tree")
    parents = [f"-p{parent}" for parent in (main, wanted) if parent]
    message = f"Merge {wanted[:12]}: {git('log', '-1', '--format=%s', wanted)}"
    commit = git("commit-tree", written, *parents, "-m", message)
    git("push", "--quiet", "origin", f"{commit}:refs/heads/main")
    return commit


def _models_as_maps(clone: Path, git: Callable[..., str], wanted: str) -> None:
    """Where the source has maps of models, give releases deployed before one of their own."""
    known = set(git("ls-tree", "-r", "--name-only", wanted, "values").splitlines())
    for path in sorted(clone.glob(f"values/*/*{tree.FORMER_MODEL_SUFFIX}")):
        if str(path.relative_to(clone)) in known:
            continue
        environment, release = path.parent.name, tree.release_of(path.name)
        try:
            models = model_map.read(Folder(clone), environment, release)
            edits = model_map.write(Folder(clone), environment, release, models)
        except ReleaseError as error:
            raise FlowError(str(error)) from error
        for name, content in edits.items():
            (clone / name).unlink() if content is None else (clone / name).write_bytes(content)
        git("add", "--all")
        git("commit", "--quiet", f"--message={environment}: Make a map of the model of {release}")


def _take_sources(git: Callable[..., str], paths: list[str], wanted: str) -> None:
    """Settle a conflict in what is only ever written in the source: an amended or rebased commit
    that was deployed before."""
    kept = set(git("ls-tree", "-r", "--name-only", wanted).splitlines())
    for path in paths:
        if path in kept:
            git("checkout", "--quiet", wanted, "--", path)
        else:
            git("rm", "--quiet", "--force", "--", path)
    sys.stderr.write(
        f"{len(paths)} files are used as the source has them, whose history was rewritten: "
        f"{', '.join(paths[:5])}{' ...' if len(paths) > 5 else ''}\n"
    )


def _replace(clone: Path, old: str, new: str) -> bool:
    changed = False
    for path in sorted((clone / "argocd").rglob("*.yaml")):
        text = path.read_bytes()
        if old.encode() in text:
            path.write_bytes(text.replace(old.encode(), new.encode()))
            changed = True
    return changed
