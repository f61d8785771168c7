"""The manifest repository: read a commit, build one beside it, push it, all without a work tree.

A commit is made from objects (a scratch index, `commit-tree`), so a process that is killed
leaves at worst unreferenced objects: the branch moves in one step, on the remote, or not at all.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import stamina

from release.errors import ConflictError, NotFoundError, UnreachableError
from release.git.commit_tree import CommitTree
from release.git.credentials import git_environment
from release.git.program import Git, GitError

_FALLBACK_IDENTITY = {"NAME": "slipway release", "EMAIL": "release@slipway.invalid"}

# What a remote says that will say the same again.
_PERMANENT = re.compile(
    r"protected branch|permission (?:to .* )?denied|403|not allowed to push|hook declined"
    r"|authentication failed|could not read username|access denied|GH0\d\d|prohibited"
    r"|read-only|repository not exported|service not enabled",
    re.IGNORECASE,
)


class PushRaceError(ConflictError):
    """Somebody else pushed first; fetch, plan again, push again."""


class _LockedError(ConflictError):
    """Another git command has the index; it is a matter of moments."""


class ManifestRepo:
    """A branch of the manifest repository, in a local clone or behind a URL."""

    def __init__(self, git: Git, remote: str | None, branch: str, name: str) -> None:
        self.git = git
        self.remote = remote
        self.branch = branch
        self.name = name

    def fetch(self) -> str:
        """The branch's newest commit, here and now.

        Raises UnreachableError when the remote does not answer, NotFoundError when it has
        no such branch.
        """
        if self.remote is None:
            ref = f"refs/heads/{self.branch}"
            self._follow(self.git.resolve(self._moving))
        else:
            ref = f"refs/remotes/origin/{self.branch}"
            refspec = f"+refs/heads/{self.branch}:{ref}"
            try:
                self.git.run("fetch", "--quiet", "--no-tags", "--prune", self.remote, refspec)
            except GitError as error:
                if "couldn't find remote ref" in error.message:
                    raise self._no_branch() from error
                # Two fetches of one clone side by side: the other one moved our tracking ref.
                if "cannot lock ref" not in error.message:
                    raise
        commit = self.git.resolve(ref)
        if commit is None:
            raise self._no_branch()
        return commit

    def _no_branch(self) -> NotFoundError:
        return NotFoundError(
            f"{self.name} has no branch {self.branch!r}.",
            fix="push one, or name another with --branch",
        )

    def tree(self, commit: str) -> CommitTree:
        """A commit's files, with those of `values/` and `argocd/` read ahead."""
        tree = CommitTree(self.git, commit)
        tree.preload("values")
        tree.preload("argocd")
        return tree

    def commit(
        self,
        parent: str,
        edits: Mapping[str, bytes | None],
        message: str,
        *,
        sign: bool = False,
        also: Sequence[str] = (),
    ) -> str:
        """A new commit object with ``edits`` on top of ``parent``; no ref points to it yet.

        ``edits`` maps paths to their new content, None to delete the file. ``also`` are further
        parents, whose content is not used.
        """
        tree = CommitTree(self.git, parent)
        lines = []
        for path, content in sorted(edits.items()):
            if content is None:
                lines.append(f"0 {'0' * 40}\t{path}\0")
                continue
            blob = self.git.run("hash-object", "-w", "--stdin", stdin=content).decode().strip()
            lines.append(f"{tree.mode(path)} {blob}\t{path}\0")
        with tempfile.TemporaryDirectory(prefix="release-index-") as scratch:
            env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.git.run("read-tree", parent, env=env)
            self.git.run(
                "update-index", "-z", "--index-info", stdin="".join(lines).encode(), env=env
            )
            new = self.git.run("write-tree", env=env).decode().strip()
        signature = ["-S"] if sign or self._signs() else []
        parents = [part for one in (parent, *also) for part in ("-p", one)]
        return (
            self.git.run(
                *("commit-tree", *signature, new, *parents, "-F", "-"),
                stdin=message.encode(),
                env=self.identity(),
            )
            .decode()
            .strip()
        )

    def push(self, parent: str | None, commit: str) -> None:
        """Move the branch from ``parent`` to ``commit``, or raise; never by force.

        Without a parent the branch is made.

        Whether a rejection was a lost race is read from where the branch stands afterwards,
        not from the remote's words, which differ from host to host.

        Raises PushRaceError when the branch moved meanwhile or the failure may pass,
        ConflictError when the remote will refuse again, UnreachableError when it is gone.
        """
        if self.remote is None:
            assert parent is not None
            self._move_local(parent, commit)
            return
        code, out, err = self.git.attempt(
            "push", "--no-verify", "--quiet", self.remote, f"{commit}:refs/heads/{self.branch}"
        )
        if code == 0:
            return
        said = " ".join((err + out.decode(errors="replace")).split())
        head: str | None = None
        try:
            with contextlib.suppress(NotFoundError):
                head = self.fetch()
        except UnreachableError as error:
            raise UnreachableError(
                f"The push to {self.name} failed: {said}",
                fix="run the command again; it finishes what this one began",
            ) from error
        if head is not None and (head == commit or self.git.is_ancestor(commit, head)):
            return  # it went through; only the answer was lost
        if head == parent and _PERMANENT.search(said):
            raise ConflictError(
                f"{self.name} refuses the push to {self.branch}: {said}",
                fix="give this identity the right to push there, or promote with --pull-request",
            )
        raise PushRaceError(f"The push to {self.name} {self.branch} was rejected: {said}")

    @property
    def _moving(self) -> str:
        """The ref that says whence the branch is being moved, until the work tree has followed."""
        return f"refs/release/{self.branch}"

    def _move_local(self, parent: str, commit: str) -> None:
        """Without a remote the branch moves here, and a checked-out work tree follows.

        A run that was killed between the two is finished by the next one's `fetch`.
        """
        changed = self.git.text("diff", "--name-only", "-z", parent, commit).split("\0")
        paths = [path for path in changed if path]
        checked_out = self._checked_out()
        if checked_out and self.git.text("status", "--porcelain", "--", *paths):
            raise ConflictError(
                f"{self.name} has uncommitted changes in {', '.join(paths)}.",
                fix="commit or discard them first",
            )
        none = "0" * 40
        if checked_out and self.git.attempt("update-ref", self._moving, parent, none)[0] != 0:
            raise PushRaceError(f"Another run moves {self.branch}.")
        ref = f"refs/heads/{self.branch}"
        code, _, err = self.git.attempt("update-ref", "-m", "release", ref, commit, parent)
        if code != 0:
            self.git.attempt("update-ref", "-d", self._moving, parent)
            raise PushRaceError(f"{self.branch} moved meanwhile: {err.strip()}")
        self._follow(parent)

    def _follow(self, parent: str | None) -> None:
        """Bring a checked-out work tree from ``parent`` to where the branch is."""
        if parent is None or not self._checked_out():
            return
        for attempt in stamina.retry_context(on=_LockedError, timeout=self.git.timeout):
            with attempt:
                code, _, err = self.git.attempt("read-tree", "-m", "-u", parent, "HEAD")
                if code != 0 and "index.lock" in err:
                    raise _LockedError(f"{self.name} is in use: {err.strip()}")
        if code != 0:
            raise ConflictError(
                f"The work tree of {self.name} was left at {parent[:12]}: {err.strip()}",
                fix="commit or discard what you changed there, then run the command again",
            )
        self.git.attempt("update-ref", "-d", self._moving, parent)

    def _checked_out(self) -> bool:
        code, head, _ = self.git.attempt("symbolic-ref", "--quiet", "HEAD")
        return (
            code == 0
            and head.decode().strip() == f"refs/heads/{self.branch}"
            and self.git.text("rev-parse", "--is-bare-repository") == "false"
        )

    def _signs(self) -> bool:
        """commit-tree does not read commit.gpgSign by itself."""
        code, out, _ = self.git.attempt("config", "--bool", "commit.gpgSign")
        return code == 0 and out.strip() == b"true"

    def identity(self) -> dict[str, str]:
        """Variables for a machine that has no Git identity configured."""
        missing: dict[str, str] = {}
        for role in ("AUTHOR", "COMMITTER"):
            if self.git.attempt("var", f"GIT_{role}_IDENT")[0] != 0:
                missing |= {f"GIT_{role}_{key}": v for key, v in _FALLBACK_IDENTITY.items()}
        return missing


@contextlib.contextmanager
def open_repo(
    location: str | None,
    branch: str,
    *,
    timeout: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ManifestRepo]:
    """The manifest repository at a path or URL; without one, that of the current folder.

    A clone is used in place: its objects here, its ``origin`` as the remote (without an origin
    its own branch moves). A URL or a bare repository is cloned into a scratch folder first and
    pushed to, so that its hooks run.
    """
    folder = Path(location) if location is not None else Path.cwd()
    if folder.is_dir():
        code, top, _ = Git(folder, timeout=timeout).attempt("rev-parse", "--show-toplevel")
        if code == 0:
            path = Path(top.decode().strip())
            code, found_url, _ = Git(path, timeout=timeout).attempt("remote", "get-url", "origin")
            url = found_url.decode().strip() if code == 0 else ""
            with git_environment(url) as access:
                clone = Git(path, {**access, **(environment or {})}, timeout)
                remote = "origin" if url else None
                yield ManifestRepo(clone, remote, branch, _masked(url or str(path)))
            return
        if location is None:
            raise NotFoundError(
                "The current folder is in no Git repository.",
                fix="name the manifest repository with --manifest-repo or MANIFEST_REPO",
            )
        location = str(folder.resolve())
    assert location is not None
    with (
        tempfile.TemporaryDirectory(prefix="release-manifests-") as scratch,
        git_environment(location) as access,
    ):
        git = Git(Path(scratch), {**access, **(environment or {})}, timeout)
        git.run("init", "--quiet", "--bare")
        # As `origin`, so that signing keys, notes and pushes name it the usual way.
        git.run("remote", "add", "origin", location)
        objects = Path(location) / "objects"
        if objects.is_dir():  # on this disk: look its objects up there rather than copy them
            (Path(scratch) / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        yield ManifestRepo(git, "origin", branch, _masked(location))


def _masked(url: str) -> str:
    """A URL without the password or token that may stand in it."""
    return re.sub(r"(://)[^/@]*@", r"\1", url)
