"""The bare Git repo that Argo CD follows, and the hook that tells it of a push."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from cluster import layout
from cluster.errors import ClusterError
from cluster.layout import Layout


def url(address: str = layout.NODE_ADDRESS) -> str:
    """The repo's address as Argo CD is told it."""
    return f"git://{address}:{layout.GIT_PORT}/slipway.git"


def ensure(where: Layout) -> str:
    """Create the bare repo and (re)write its hook."""
    repo = where.manifest_repo
    word = "kept"
    if not (repo / "HEAD").is_file():
        repo.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(repo)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ClusterError(f"the manifest repo could not be made: {done.stderr.strip()}")
        word = "created"
    # What a hosted repo's protected branch does: history is never rewritten or dropped.
    for name in ("receive.denyNonFastForwards", "receive.denyDeletes"):
        subprocess.run(["git", "-C", str(repo), "config", name, "true"], check=True)
    hook = repo / "hooks" / "post-receive"
    text = post_receive(where.program("kubectl"), where.kubeconfig)
    if not hook.is_file() or hook.read_text() != text:
        hook.write_text(text)
        hook.chmod(0o755)
    return word


def post_receive(kubectl: str, kubeconfig: Path) -> str:
    """A hook that has Argo CD look at once, as a webhook does on a hosted repo.

    It never fails or delays the push: Argo CD polls as well.
    """
    refresh = shlex.join(
        [
            kubectl,
            f"--kubeconfig={kubeconfig}",
            "--namespace=argocd",
            "--request-timeout=5s",
            "annotate",
            "applications.argoproj.io",
            "--all",
            "--overwrite",
            "argocd.argoproj.io/refresh=normal",
        ]
    )
    return (
        "#!/bin/sh\n"
        "# Written by `cluster up`: tells Argo CD that main moved.\n"
        "while read -r _old _new reference; do\n"
        '  [ "$reference" = refs/heads/main ] || continue\n'
        f"  {refresh} >/dev/null 2>&1 </dev/null &\n"
        "done\n"
    )
