"""How Git reaches the manifest repository: a token, a deploy key, or what the machine has.

Secrets go to Git through its environment or a private file, never by the command line.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from release.errors import ReleaseError


@contextlib.contextmanager
def git_environment(
    url: str, settings: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """Variables for git from MANIFEST_TOKEN, or MANIFEST_DEPLOY_KEY with MANIFEST_KNOWN_HOSTS.

    A token (a GitHub App's or another) is sent as HTTP Basic to the host of ``url`` alone, and
    over plain HTTP only to this machine. A deploy key is used alone, and only with a host whose
    key is known: an unknown host is never trusted at first sight.

    Raises ReleaseError when a deploy key comes without known hosts.
    """
    given = os.environ if settings is None else settings
    token, key = given.get("MANIFEST_TOKEN", ""), given.get("MANIFEST_DEPLOY_KEY", "")
    parts = urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if token and (parts.scheme == "https" or (parts.scheme == "http" and local)):
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        index = int(os.environ.get("GIT_CONFIG_COUNT", "0"))
        yield {
            "GIT_CONFIG_COUNT": str(index + 1),
            f"GIT_CONFIG_KEY_{index}": f"http.{parts.scheme}://{parts.netloc}/.extraHeader",
            f"GIT_CONFIG_VALUE_{index}": f"Authorization: Basic {basic}",
        }
        return
    if not key:
        yield {}
        return
    hosts = given.get("MANIFEST_KNOWN_HOSTS", "")
    if not hosts.strip():
        raise ReleaseError(
            "MANIFEST_DEPLOY_KEY is set, but MANIFEST_KNOWN_HOSTS is not.",
            fix="set it to the host's published keys, as in known_hosts",
        )
    with tempfile.TemporaryDirectory(prefix="release-ssh-") as scratch:
        folder = Path(scratch)
        for name, content in (("key", key), ("known_hosts", hosts)):
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(content.rstrip("\n") + "\n")
        options = {
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(folder / "known_hosts"),
            "GlobalKnownHostsFile": os.devnull,
            "BatchMode": "yes",
        }
        command = ["ssh", "-F", os.devnull, "-i", str(folder / "key")]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        yield {"GIT_SSH_COMMAND": shlex.join(command)}
