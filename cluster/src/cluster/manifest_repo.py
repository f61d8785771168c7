"""The bare Git repo that Argo CD follows, and the hook that tells it of a push."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import layout
from cluster.errors import ClusterError
from cluster.layout import Layout

WAKE = Path(__file__).with_name("wake.py")


def url(address: str = layout.NODE_ADDRESS) -> str:
    """The repo's address as Argo CD is given it."""
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
    kubectl = [where.program("kubectl"), f"--kubeconfig={where.kubeconfig}"]
    install_hook(repo, [*kubectl, "--namespace=argocd", "--request-timeout=5s"])
    return word


def install_hook(repo: Path, kubectl: Sequence[str]) -> None:
    """(Re)write the hook that has Argo CD look immediately, as a webhook does on a hosted repo.

    It never fails or delays a push. The interpreter is the system's: a clone's may be deleted.
    """
    wake = repo / "hooks" / "wake.py"
    command = shlex.join([str(Path(sys.executable).resolve()), "-I", str(wake.resolve()), *kubectl])
    for path, text in (
        (wake, WAKE.read_text()),
        (
            repo / "hooks" / "post-receive",
            "#!/bin/sh\n# Written by `cluster up`: tells Argo CD that main moved.\n"
            f'pushed=$(cat)\necho "$pushed" | {command} >/dev/null 2>&1 &\n',
        ),
    ):
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            path.chmod(0o755)
