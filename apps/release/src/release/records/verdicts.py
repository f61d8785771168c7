"""The verdicts, kept in Git beside the commits they are about: notes at refs/notes/verdicts.

`git log --notes=verdicts -- values/prod` shows them; no commit of main is needed for one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import stamina

from release.errors import ConflictError, ReleaseError, UnreachableError
from release.git.program import GitError
from release.git.repository import ManifestRepo, PushRaceError
from release.records.deployments import machine_only

REF = "refs/notes/verdicts"

Files = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Verdict:
    """What was seen of an environment at a commit."""

    environment: str
    verdict: str
    """``deployed``, ``failed`` or ``timed out``."""
    at: str
    """When, UTC, as ISO 8601."""
    by: str
    state: str
    """Fingerprint of all of the environment's files but its holds."""
    machine: str
    """Fingerprint of its image and model files."""
    causes: tuple[str, ...] = ()
    commit: str = ""

    @property
    def time(self) -> datetime:
        """``at`` as a time."""
        parsed = datetime.fromisoformat(self.at)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def fingerprint(files: Files) -> str:
    """One hash for paths and contents."""
    text = "".join(f"{path}\0{blob}\n" for path, blob in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


def make(
    environment: str,
    verdict: str,
    files: Files,
    *,
    by: str,
    now: datetime,
    causes: Sequence[str] = (),
) -> Verdict:
    """A verdict on the state that ``files`` are."""
    return Verdict(
        environment,
        verdict,
        now.astimezone(UTC).isoformat(timespec="seconds"),
        by,
        fingerprint(files),
        fingerprint(machine_only(files)),
        tuple(causes),
    )


@dataclass(frozen=True)
class Log:
    """All verdicts, oldest first."""

    entries: Sequence[Verdict]

    def of(self, environment: str) -> list[Verdict]:
        """An environment's verdicts."""
        return [entry for entry in self.entries if entry.environment == environment]

    def on_state(self, environment: str, files: Files) -> bool | None:
        """The last verdict on exactly this state: deployed or not; None when there is none."""
        wanted = fingerprint(files)
        known = [entry for entry in self.of(environment) if entry.state == wanted]
        return known[-1].verdict == "deployed" if known else None

    def verified_since(self, environment: str, files: Files) -> datetime | None:
        """Since when these images and models are known to be healthy there.

        None when the last verdict on them is not ``deployed``.
        """
        wanted = fingerprint(machine_only(files))
        since: datetime | None = None
        for entry in self.of(environment):
            if entry.machine != wanted:
                continue
            since = (since or entry.time) if entry.verdict == "deployed" else None
        return since


def read(repo: ManifestRepo) -> Log:
    """Every verdict the remote has.

    Raises UnreachableError when the remote does not answer.
    """
    ref = _fetch(repo)
    if ref is None:
        return Log([])
    # A notes tree maps commit ids, with slashes between some digits, to the notes' blobs.
    listed = repo.git.text("ls-tree", "-r", ref).splitlines()
    pairs = [(line.split()[2], line.split("\t")[1].replace("/", "")) for line in listed]
    blobs = repo.git.run(
        "cat-file", "--batch", stdin="".join(f"{note}\n" for note, _ in pairs).encode()
    )
    entries: list[Verdict] = []
    position = 0
    for _, commit in pairs:
        end = blobs.index(b"\n", position)
        size = int(blobs[position:end].split()[2])
        entries += _parsed(blobs[end + 1 : end + 1 + size].decode(errors="replace"), commit)
        position = end + 2 + size
    return Log(sorted(entries, key=lambda entry: entry.at))


def record(repo: ManifestRepo, commit: str, verdict: Verdict) -> None:
    """Add a verdict to a commit's note and push it.

    Raises ConflictError or UnreachableError when it cannot be pushed.
    """
    content = {key: value for key, value in asdict(verdict).items() if key != "commit"}
    line = json.dumps(content, ensure_ascii=False, sort_keys=True)
    scratch = f"refs/notes/release-{os.getpid()}"
    try:
        for attempt in stamina.retry_context(
            on=PushRaceError, attempts=20, timeout=60, wait_initial=0.05, wait_jitter=0.5
        ):
            with attempt:
                base = _fetch(repo)
                if base is None:
                    repo.git.attempt("update-ref", "-d", scratch)
                else:
                    repo.git.run("update-ref", scratch, base)
                repo.git.run(
                    "notes", f"--ref={scratch}", "append", "-m", line, commit, env=repo.identity()
                )
                _push(repo, scratch, base)
    except PushRaceError as error:
        raise ConflictError(f"The verdict could not be recorded: {error.message}") from error
    finally:
        repo.git.attempt("update-ref", "-d", scratch)


def _fetch(repo: ManifestRepo) -> str | None:
    """The remote's notes, here; None when it has none yet."""
    if repo.remote is None:
        return repo.git.resolve(REF)
    tracking = f"refs/notes/origin-{os.getpid()}"
    try:
        repo.git.run("fetch", "--quiet", "--no-tags", repo.remote, f"+{REF}:{tracking}")
    except GitError as error:
        if "couldn't find remote ref" in error.message:
            return None
        raise
    commit = repo.git.resolve(tracking)
    repo.git.attempt("update-ref", "-d", tracking)
    return commit


def _push(repo: ManifestRepo, scratch: str, base: str | None) -> None:
    if repo.remote is None:
        commit = repo.git.text("rev-parse", scratch)
        code, _, err = repo.git.attempt("update-ref", REF, commit, base or "0" * 40)
    else:
        code, _, err = repo.git.attempt(
            "push", "--no-verify", "--quiet", repo.remote, f"{scratch}:{REF}"
        )
    if code == 0:
        return
    with contextlib.suppress(UnreachableError):
        if _fetch(repo) != base:
            raise PushRaceError(f"Others wrote verdicts meanwhile: {err.strip()}")
    raise ReleaseError(
        f"{repo.name} refuses {REF}: {' '.join(err.split())}",
        fix="allow this identity to push refs/notes/*, or pass --no-record",
    )


def _parsed(text: str, commit: str) -> Iterator[Verdict]:
    """The verdicts in one note; lines that are none (a person may write there) are skipped."""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            content = json.loads(line)
            if isinstance(content, dict):
                causes = tuple(content.pop("causes", ()))
                made = Verdict(**content, causes=causes, commit=commit)
                datetime.fromisoformat(made.at)  # by this they are put in order
                yield made
