"""Brings a commit of the source into the one-machine manifest repo, as a merge to main does."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from flow import command
from flow.errors import FlowError

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
        # Merged with the address as it is in the source, so that it is never in conflict.
        if _replace(clone, url, PLACEHOLDER_URL):
            git("commit", "--quiet", "--all", "--message=Take the address back for the merge")
        try:
            git("merge", "--quiet", "--no-edit", "--allow-unrelated-histories", wanted)
        except FlowError as error:
            both = git("diff", "--name-only", "--diff-filter=U").splitlines()
            if not both or any(path.startswith(RELEASED) for path in both):
                raise FlowError(
                    f"{wanted[:12]} cannot be merged into the manifest repo at {manifest_repo}:\n"
                    f"{error}\nmerge it by hand: git pull {manifest_repo} main"
                ) from error
            _take_sources(git, both, wanted)
    _replace(clone, PLACEHOLDER_URL, url)
    git("add", "--all")
    tree = git("write-tree")
    parents = [f"-p{parent}" for parent in (main, wanted) if parent]
    message = f"Merge {wanted[:12]}: {git('log', '-1', '--format=%s', wanted)}"
    commit = git("commit-tree", tree, *parents, "-m", message)
    git("push", "--quiet", "origin", f"{commit}:refs/heads/main")
    return commit


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
        f"{len(paths)} files are taken as the source has them, whose history was rewritten: "
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
