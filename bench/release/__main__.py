"""Bumps under contention, validate, diff and status; `python -m bench.release` prints and stores.

The races run on a bare repository on this disk with separate `release` processes; nothing is
mocked. `--cluster` adds what needs a running one: status, a push to its application by Argo CD, and
rollbacks under load.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from release.cluster.client import Cluster
from release.programs import find

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
ENVIRONMENT = "stage"
GATEWAY = "http://127.0.0.1:8080"
RATE = 20
APPLICATION_SET = """\
kind: ApplicationSet
spec: {generators: [{list: {elements: [{release: proxy, chart: service}]}}]}
"""
IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "bench"), ("EMAIL", "bench@example.org"))
}
RELEASE = [str(Path(sys.executable).parent / "release")]


@dataclass
class Result:
    """One measured figure; ``peer`` is what others publish."""

    what: str
    value: str
    goal: str
    peer: str = "no figure found"


def main() -> None:
    """Run what was asked for, print the table, store it; each part as soon as it is measured."""
    arguments = _arguments()
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    # Before the writers begin: theirs is no load of others.
    about = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, {when}"
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-release-") as scratch:
        folder = Path(scratch)
        parts: list[Callable[[], list[Result]]] = [
            lambda: contention(folder / "race", arguments.bumps, arguments.writers),
            lambda: rendering(folder / "render", arguments.rounds, arguments.copies),
        ]
        if arguments.cluster:
            parts.append(lambda: cluster(folder, arguments.rounds))
        for part in parts:
            results += part()
            _store(results, about)
    print(_table(results))


def _store(results: list[Result], about: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "release.md").write_text(
        f"# release\n\n`make bench-release`, {about}. Higher load than cores means that the "
        f"machine was shared.\n\n{_table(results)}\n"
    )
    (RESULTS / "release.json").write_text(
        json.dumps({"about": about, "results": [asdict(r) for r in results]}, indent=2) + "\n"
    )


def contention(folder: Path, bumps: int, writers: int) -> list[Result]:
    """``bumps`` image sets by ``writers`` processes, and a competitor that pushes every 2 s."""
    remote = repository(folder, environments=writers)
    revisions = [commit(remote, f"Source {n}") for n in range(bumps // writers)]
    start = git(remote, "rev-parse", "main")
    seconds: list[float] = []
    failures: list[str] = []
    stop = threading.Event()
    others = 0

    def competitor() -> None:
        nonlocal others
        while not stop.wait(2.0):
            commit(remote, "Competitor")
            others += 1

    def writer(number: int) -> None:
        for index, revision in enumerate(revisions):
            digest = hashlib.sha256(f"{number}-{index}".encode()).hexdigest()
            image = f"proxy=registry.test/slipway/proxy:{index}@sha256:{digest}"
            began = time.monotonic()
            done = run(
                remote, "image", "set", "--env", f"env{number}", "--image", image,
                "--revision", revision, "--no-check-registry",
            )  # fmt: skip
            seconds.append(time.monotonic() - began)
            if done.returncode:
                failures.append(done.stderr)

    thread = threading.Thread(target=competitor)
    thread.start()
    began = time.monotonic()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(writer, range(writers)))
    total = time.monotonic() - began
    stop.set()
    thread.join()
    subjects = git(remote, "log", "--format=%s", f"{start}..main").splitlines()
    ours = [subject for subject in subjects if "Deploy" in subject]
    lost = len(revisions) * writers - len(set(ours))
    doubled = len(ours) - len(set(ours))
    ordered = sorted(seconds)
    return [
        Result(
            f"{len(revisions) * writers} bumps by {writers} writers, {others} competing pushes",
            f"{lost} lost, {doubled} doubled, {len(failures)} failed, {total:.0f} s in all",
            "0 lost, 0 doubled",
            "argo-watcher's soak: 5 applications, 10 writers, 0 lost",
        ),
        Result("one bump under that contention, p50", f"{statistics.median(ordered):.2f} s", "-"),
        Result(
            "one bump under that contention, p95", f"{ordered[int(len(ordered) * 0.95)]:.2f} s", "-"
        ),
        Result(
            "one bump alone, p50",
            f"{median(5, lambda n: bump_alone(remote, n)):.2f} s",
            "-",
        ),
    ]


def bump_alone(remote: Path, number: int) -> None:
    """One bump that nobody contests."""
    revision = commit(remote, "Source")
    digest = hashlib.sha256(f"alone-{number}".encode()).hexdigest()
    done = run(
        remote, "image", "set", "--env", "env0", "--image",
        f"proxy=registry.test/slipway/proxy:a{number}@sha256:{digest}", "--revision", revision,
        "--no-check-registry",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def rendering(folder: Path, rounds: int, copies: int) -> list[Result]:
    """`validate` on what is shipped and on ten times as much, `diff` of one changed release."""
    small = tree(folder / "small", copies=0)
    trees = [(small, "10 s", 1)]
    if copies:
        trees.append((tree(folder / "large", copies), "60 s", 0))
    results = []
    for root, goal, count in trees:
        rows = json.loads(run(None, "validate", str(root), "--json").stdout)
        took = [rows["seconds"]]
        for _ in range(max(0, rounds - 1) * count):
            took.append(json.loads(run(None, "validate", str(root), "--json").stdout)["seconds"])
        results.append(
            Result(
                f"validate, {rows['releases']} releases, {rows['manifests']} manifests",
                f"{statistics.median(took):.1f} s, {len(rows['findings'])} findings",
                f"at most {goal}",
            )
        )
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=small, check=True)
    for message, text in (("One", ""), ("Two", "replicas: 2\n")):
        path = small / "values" / "dev" / "proxy.yaml"
        path.write_text(path.read_text().replace("replicas: 1\n", text or "replicas: 1\n"))
        git(small, "add", ".")
        git(small, "commit", "-q", "-m", message)
    base = small / "values/services/proxy/service.yaml"
    base.write_text(base.read_text() + "podLabels: {bench: 'yes'}\n")
    git(small, "commit", "-q", "-am", "Three")

    def difference(_: int) -> None:
        done = run(None, "diff", "HEAD~2", "HEAD", cwd=small)
        assert done.returncode in (0, 2), done.stderr

    results.append(
        Result(
            "diff after a change of every environment's proxy",
            f"{median(rounds, difference):.1f} s",
            "at most 15 s",
        )
    )
    return results


def cluster(folder: Path, rounds: int) -> list[Result]:
    """What needs the cluster of KUBECONFIG and the repository of MANIFEST_REPO, on one environment.

    What is changed there is put back.
    """

    def status(_: int) -> None:
        done = subprocess.run([*RELEASE, "status"], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 6), done.stderr

    results = [Result("status, 3 environments", f"{median(rounds, status):.2f} s", "at most 2 s")]
    clone = folder / "clone"
    release("unhold", "--env", ENVIRONMENT)
    release("verify", "--env", ENVIRONMENT)
    git(folder, "clone", "-q", os.environ["MANIFEST_REPO"], str(clone))
    try:
        results += [applied(clone, max(rounds, 10)), *rolled_back(clone, folder, rounds)]
    finally:
        release("reconcile", "--env", ENVIRONMENT, "--discard", "--no-verify")
        release("unhold", "--env", ENVIRONMENT)
        release("verify", "--env", ENVIRONMENT)
    return results


def applied(clone: Path, rounds: int) -> Result:
    """From the beginning of a push to the live object that Argo CD applied."""
    seen = Cluster()
    path = seen.path("v1", "ConfigMap", ENVIRONMENT) + "/unzip"
    file, key = f"values/{ENVIRONMENT}/unzip.yaml", "UNZIP_LOG_LEVEL"
    took = []
    with setting(clone, file, key) as change:
        for number in range(rounds):
            level = ("debug", "warning")[number % 2]
            change(level)
            began = time.monotonic()
            git(clone, "push", "-q", "origin", "HEAD:main")
            seen.refresh(ENVIRONMENT, "unzip")
            while seen.request("GET", path)["data"].get(key) != level:
                assert time.monotonic() - began < 120, f"{level} was not applied in 120 s"
                time.sleep(0.02)
            took.append(time.monotonic() - began)
    ordered = sorted(took)
    worst = f"{ordered[-1]:.2f} s at most"
    return Result(
        f"push to applied by Argo CD, {rounds} pushes, p50",
        f"{statistics.median(ordered):.2f} s, {worst}",
        "at most 2 s",
        "Argo CD polling Git: 43 s median",
    )


def rolled_back(clone: Path, folder: Path, rounds: int) -> list[Result]:
    """From the command to the old configuration's pods Ready, under a steady load."""
    file, key = f"values/{ENVIRONMENT}/proxy.yaml", "PROXY_LOG_LEVEL"
    took: dict[str, list[float]] = {"": [], "--offline": []}
    with Load(folder) as load:
        for number in range(rounds):
            for how, seconds in took.items():
                with setting(clone, file, key) as change:
                    change(("debug", "warning")[number % 2])
                    git(clone, "push", "-q", "origin", "HEAD:main")
                    release("verify", "--env", ENVIRONMENT)
                    began = time.monotonic()
                    release("rollback", "--env", ENVIRONMENT, "--verify", *([how] if how else []))
                    seconds.append(time.monotonic() - began)
                    release("reconcile", "--env", ENVIRONMENT)
                    release("unhold", "--env", ENVIRONMENT)
    requests, failed = load.met
    name = "rollback{}, command to old pods Ready, median of {}"
    return [
        Result(
            name.format(f" {how}" if how else "", rounds),
            f"{statistics.median(seconds):.1f} s, {max(seconds):.1f} s at most",
            "at most 30 s",
            "`argocd app rollback` refuses while auto-sync is on",
        )
        for how, seconds in took.items()
    ] + [
        Result(
            f"requests that failed during all of them, {RATE} a second",
            f"{failed} of {requests}",
            "0",
        )
    ]


@contextlib.contextmanager
def setting(clone: Path, file: str, key: str) -> Iterator[Callable[[str], None]]:
    """Commits a setting of a release, at first on the newest commit; in the end it is put back."""
    git(clone, "fetch", "-q", "origin", "main")
    git(clone, "reset", "-q", "--hard", "origin/main")
    path = clone / file
    before = path.read_text()

    def change(value: str) -> None:
        if "env:\n" in before:
            text = before.replace("env:\n", f"env:\n  {key}: {value}\n", 1)
        else:
            text = f"{before}env:\n  {key}: {value}\n"
        path.write_text(text)
        git(clone, "commit", "-q", "-am", f"Set {key} to {value}")

    yield change
    git(clone, "fetch", "-q", "origin", "main")
    git(clone, "reset", "-q", "--hard", "origin/main")
    if path.read_text() != before:
        path.write_text(before)
        git(clone, "commit", "-q", "-am", f"Take {key} back")
        git(clone, "push", "-q", "origin", "HEAD:main")


class Load:
    """A steady load on the environment's proxy, by vegeta; ``met`` afterwards."""

    def __init__(self, folder: Path) -> None:
        self._results = folder / "vegeta.results"
        self.met = (0, 0)
        """Requests, and how many of them were not answered by 200."""

    def __enter__(self) -> Self:
        target = f"GET {GATEWAY}/v1/about\nHost: {ENVIRONMENT}.slipway.localhost\n"
        self._process = subprocess.Popen(
            [
                *(find("vegeta"), "attack", f"-rate={RATE}", "-duration=0", "-timeout=10s"),
                *("-max-workers=50", f"-output={self._results}"),
            ],
            stdin=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(target.encode())
        self._process.stdin.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        told = subprocess.run(
            [find("vegeta"), "report", "-type=json", str(self._results)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        report = json.loads(told.stdout)
        self.met = (
            report["requests"], report["requests"] - report["status_codes"].get("200", 0)
        )  # fmt: skip


def release(*arguments: str) -> None:
    """A `release` command on the cluster and its repository, which must succeed."""
    done = subprocess.run([*RELEASE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"release {' '.join(arguments)}: {done.stderr}"


def tree(folder: Path, copies: int) -> Path:
    """The shipped charts and values; with ``copies`` of proxy in every environment."""
    for part in ("charts", "values", "argocd", "docs/reference"):
        shutil.copytree(ROOT / part, folder / part)
    for environment in ("dev", "stage", "prod"):
        argocd = folder / "argocd/environments" / f"{environment}.yaml"
        rows = "".join(
            f"          - {{release: proxy-{n}, chart: service, of: proxy}}\n"
            for n in range(copies)
        )
        argocd.write_text(
            argocd.read_text().replace(
                "          - {release: worker,", f"{rows}          - {{release: worker,"
            )
        )
        for n in range(copies):
            for kind in ("yaml", "image.yaml"):
                shutil.copy(
                    folder / f"values/{environment}/proxy.{kind}",
                    folder / f"values/{environment}/proxy-{n}.{kind}",
                )
    return folder


def repository(folder: Path, environments: int) -> Path:
    """A bare repository with so many environments of one release."""
    work = folder / "work"
    work.mkdir(parents=True)
    keys = ("repository", "tag", "digest", "revision")
    image = "image:\n" + "".join(f'  {key}: ""\n' for key in keys)
    for n in range(environments):
        values = work / "values" / f"env{n}"
        values.mkdir(parents=True)
        (values / "proxy.image.yaml").write_text(image)
        argocd = work / "argocd/environments"
        argocd.mkdir(parents=True, exist_ok=True)
        (argocd / f"env{n}.yaml").write_text(APPLICATION_SET)
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=work, check=True)
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "Begin")
    remote = folder / "remote.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(remote)], check=True)
    return remote


def commit(remote: Path, message: str) -> str:
    """An empty commit on main, by compare-and-swap."""
    while True:
        old = git(remote, "rev-parse", "main")
        new = git(remote, "commit-tree", f"{old}^{{tree}}", "-p", old, "-m", message)
        moved = subprocess.run(
            ["git", "update-ref", "refs/heads/main", new, old], cwd=remote, capture_output=True,
            check=False,
        )  # fmt: skip
        if moved.returncode == 0:
            return new


def git(folder: Path, *arguments: str) -> str:
    """A git command's output."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, **IDENTITY},
    )  # fmt: skip
    return done.stdout.strip()


def run(
    remote: Path | None, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A `release` process."""
    environment = {**os.environ, **IDENTITY}
    environment.pop("MANIFEST_REPO", None)
    if remote is not None:
        environment["MANIFEST_REPO"] = str(remote)
    return subprocess.run(
        [*RELEASE, *arguments], capture_output=True, text=True, check=False, env=environment,
        cwd=cwd or (remote.parent if remote else None),
    )  # fmt: skip


def median(rounds: int, action: Callable[[int], None]) -> float:
    """The median seconds of so many runs."""
    took = []
    for number in range(rounds):
        began = time.monotonic()
        action(number)
        took.append(time.monotonic() - began)
    return statistics.median(took)


def _table(results: list[Result]) -> str:
    lines = ["| what | measured | goal | peers publish |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.value} | {r.goal} | {r.peer} |" for r in results]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bumps", type=int, default=200)
    parser.add_argument("--writers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=44, help="more releases per environment")
    parser.add_argument("--cluster", action="store_true", help="also what needs a cluster")
    return parser.parse_args()


if __name__ == "__main__":
    main()
