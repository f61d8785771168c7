"""``python -m tests.breakage`` (``make breakage``): needs the cluster of `make up`.

dev is brought to what the source says, with the images and models that it runs. Each way is then
shown to `release validate` where it is a commit, and deployed whatever that says; changes in the
cluster are made while Argo CD's controller is stopped, so that nothing heals them. `release status`
is asked again and again while `release verify` waits. Everything is put back, and the table in
docs/testing.md is written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flow import site as sites
from flow.source import PLACEHOLDER_URL
from tests.breakage.report import Said, row, write
from tests.breakage.ways import ENVIRONMENT, MORE, WAYS, Way

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "testing.md"
CONTROLLER = "statefulset/argocd-application-controller"
VERIFY_SECONDS = 60
AFTERWARDS_SECONDS = 240
BETWEEN_LOOKS_SECONDS = 4.0
MACHINE_OWNED = (".image.yaml", ".models.yaml")


class Breaker:
    """Breaks, asks, and puts back."""

    def __init__(self, site: sites.Site) -> None:
        self.site = site
        self.repo = str(site.manifest_repo)
        self.gateway = sites.GATEWAY.replace("127.0.0.1", "{host}")
        self.environment = {
            **os.environ, "MANIFEST_REPO": self.repo, "COLUMNS": "250",
            "KUBECONFIG": str(site.kubectl.kubeconfig),
        }  # fmt: skip

    @contextlib.contextmanager
    def standard(self) -> Iterator[None]:
        """dev as the source has it: its repository may hold what people or tests left in it."""
        with self.clone() as clone:
            before = self.git(clone, "rev-parse", "HEAD")
            self.standardise(clone)
            self.push(clone, "Bring dev to what the source says")
        self.settled()
        try:
            yield
        finally:
            with self.clone() as clone:
                self.git(clone, "checkout", "--quiet", before, "--", "values", "argocd")
                self.push(clone, "Put back what dev was")

    def standardise(self, clone: Path) -> None:
        """Give a clone the source's files, but for those that `release` writes."""
        services = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("values/services/*"))
        for folder in (f"values/{ENVIRONMENT}", "values/platform", *services):
            (clone / folder).mkdir(parents=True, exist_ok=True)
            theirs = {path.name for path in (ROOT / folder).iterdir()}
            for path in (clone / folder).iterdir():
                if path.name not in theirs:
                    path.unlink()
            for name in theirs:
                if not name.endswith(MACHINE_OWNED):
                    shutil.copy(ROOT / folder / name, clone / folder / name)
        listed = (ROOT / "argocd/environments" / f"{ENVIRONMENT}.yaml").read_text()
        file = clone / "argocd/environments" / f"{ENVIRONMENT}.yaml"
        file.write_text(listed.replace(PLACEHOLDER_URL, self.site.repo_url))

    def validated(self, way: Way) -> dict[str, Said]:
        """What validate alone says; nothing is deployed."""
        assert way.edit is not None
        with self.clone() as clone:
            self.standardise(clone)
            way.edit(clone)
            return {"validate": self.release("validate", str(clone), "--env", ENVIRONMENT)}

    def run(self, way: Way) -> dict[str, Said]:
        """What validate, verify and status say of one way."""
        with way.arranged(self.site) if way.arranged else contextlib.nullcontext():
            said = self.by_commit(way) if way.edit is not None else self.in_cluster(way)
        self.settled()
        return said

    def by_commit(self, way: Way) -> dict[str, Said]:
        """Validate, and push whatever it says."""
        assert way.edit is not None
        with self.clone() as clone:
            before = self.git(clone, "rev-parse", "HEAD")
            way.edit(clone)
            found = self.release("validate", str(clone), "--env", ENVIRONMENT)
            self.push(clone, f"Break: {way.what}")
            try:
                return {"validate": found, **self.verdicts()}
            finally:
                self.git(clone, "checkout", "--quiet", before, "--", ".")
                self.push(clone, f"Put back: {way.what}")

    @contextlib.contextmanager
    def without_argo_cd(self) -> Iterator[None]:
        """Without its controller, which would heal what is broken before anybody looked."""
        kubectl, place = self.site.kubectl, ("-n", "argocd")
        kubectl.run("scale", CONTROLLER, *place, "--replicas=0")
        try:
            pod = "pod/argocd-application-controller-0"
            kubectl.run("wait", "--for=delete", pod, *place, "--timeout=90s")
            yield
        finally:
            kubectl.run("scale", CONTROLLER, *place, "--replicas=1")
            kubectl.wait_for_rollout(CONTROLLER, "argocd", 120)

    def in_cluster(self, way: Way) -> dict[str, Said]:
        """Change objects; they are put back as Argo CD would."""
        kubectl, place = self.site.kubectl, ("-n", way.namespace)
        kept = [kubectl.get(name, *place) for name in way.objects]
        try:
            if way.made:
                kubectl.apply(way.made)
            for command in way.kubectl:
                kubectl.run(*command, *place)
            return self.verdicts()
        finally:
            if way.made:
                kubectl.run("delete", "--ignore-not-found", "-f", "-", stdin=way.made)
            for item in kept:
                kubectl.run(
                    "apply", "--server-side", "--force-conflicts",
                    "--field-manager=argocd-controller", "-f", "-", stdin=json.dumps(bare(item)),
                )  # fmt: skip

    def verdicts(self) -> dict[str, Said]:
        """Verify, and status again and again meanwhile; seconds count from now."""
        started = time.monotonic()
        ended = threading.Event()
        looks: list[Said] = []

        def look() -> None:
            while not (looks and not looks[-1].green):
                last = ended.is_set()
                looks.append(self.release("status", "--env", ENVIRONMENT, since=started))
                if last:
                    return
                ended.wait(BETWEEN_LOOKS_SECONDS)

        watching = threading.Thread(target=look)
        watching.start()
        verify = self.release(
            "verify", "--env", ENVIRONMENT, f"--timeout={VERIFY_SECONDS}", "--no-record",
            "--gateway", self.gateway, since=started,
        )  # fmt: skip
        ended.set()
        watching.join()
        return {"verify": verify, "status": looks[-1]}

    def settled(self) -> None:
        """Wait until everything is good again; AssertionError where it is not.

        A pod that has just got its Secret back still looks like one that has none.
        """
        ends = time.monotonic() + AFTERWARDS_SECONDS
        while True:
            said = self.release(
                "verify", "--env", ENVIRONMENT, f"--timeout={AFTERWARDS_SECONDS}", "--no-record",
                "--gateway", self.gateway, "--failed-share=1",
            )  # fmt: skip
            if said.green or said.text.startswith("deployed, but: "):
                return  # that a host goes is a warning about what was put back, too
            assert time.monotonic() < ends, f"{ENVIRONMENT} is not as it was: {said.text}"

    def release(self, *arguments: str, since: float | None = None) -> Said:
        """One command: whether it was content, and its first word of trouble."""
        started = time.monotonic() if since is None else since
        done = subprocess.run(
            ["release", *arguments], capture_output=True, text=True, check=False,
            env=self.environment, cwd=ROOT,
        )  # fmt: skip
        seconds = time.monotonic() - started
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        if arguments[0] == "status":
            causes = [line for line in lines if line.startswith(f"{ENVIRONMENT}/")]
            code = "" if done.returncode else "exit 0, but: "
            green = done.returncode == 0 and not causes
            return Said(green, f"{code}{(causes or lines or [''])[0]}", seconds)
        if arguments[0] == "verify":
            told = next((x for x in lines if x.startswith(f"release: {ENVIRONMENT} at")), "")
            text = told.partition(" failed. ")[2]
            if late := told.partition(" seconds. ")[2]:
                text = f"timed out: {late}"
            warned = next((x for x in lines if "is no host any more" in x), "")
            warned = warned.removeprefix("release: warning: ")
            green = done.returncode == 0 and not warned
            text = text or (f"deployed, but: {warned}" if warned else "")
            return Said(green, text or " ".join(lines[-2:]), seconds)
        here = [line for line in lines if line.startswith(f"values/{ENVIRONMENT}/")]
        return Said(done.returncode == 0, (here or lines or [""])[0], seconds)

    @contextlib.contextmanager
    def clone(self) -> Iterator[Path]:
        """A clone of the cluster's repository."""
        with tempfile.TemporaryDirectory(prefix="slipway-breakage-") as scratch:
            clone = Path(scratch) / "clone"
            subprocess.run(["git", "clone", "--quiet", self.repo, str(clone)], check=True)
            yield clone

    def push(self, clone: Path, subject: str) -> None:
        """Commit whatever differs and push it."""
        who = ("-c", "user.name=breakage", "-c", "user.email=breakage@localhost")
        self.git(clone, "add", "--all")
        self.git(clone, *who, "commit", "--quiet", "--allow-empty", "-m", subject)
        self.git(clone, "push", "--quiet", "origin", "HEAD:main")

    @staticmethod
    def git(clone: Path, *arguments: str) -> str:
        """Git's answer."""
        command = ["git", "-C", str(clone), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """An object without what the API server wrote into it."""
    kept = ("name", "namespace", "labels", "annotations")
    metadata = {key: value for key, value in item["metadata"].items() if key in kept}
    if item["kind"] == "Service":
        for key in ("clusterIP", "clusterIPs"):
            item["spec"].pop(key, None)
    return {**{k: v for k, v in item.items() if k != "status"}, "metadata": metadata}


def main() -> int:
    """Run the ways that were asked for; 1 where one of them stayed green everywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="words of kinds or ways; all when left out")
    parser.add_argument("--list", action="store_true", help="only name the ways")
    parser.add_argument("--validate-only", action="store_true", help="of commits; deploy nothing")
    given = parser.parse_args()
    everything = (*WAYS, *MORE)
    chosen = list(
        dict.fromkeys(
            way
            for word in given.words or [""]
            for way in everything
            if word in f"{way.kind}: {way.what}"
        )
    )
    if given.list:
        sys.stdout.write("".join(f"{way.kind}: {way.what}\n" for way in chosen))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with everything put back
    assert shutil.which("release"), "release is not installed: run `make setup`"
    breaker = Breaker(sites.one_machine())
    rows: dict[Way, str] = {}
    unseen: list[Way] = []

    def run(ways: list[Way]) -> None:
        for way in ways:
            said = breaker.validated(way) if given.validate_only else breaker.run(way)
            rows[way] = row(way, said)
            unseen.extend([way] if all(one.green for one in said.values()) else [])
            sys.stdout.write(rows[way])
            sys.stdout.flush()
            write(PAGE, everything, rows)

    if given.validate_only:
        run([way for way in chosen if way.edit is not None])
        return 0
    with breaker.standard():
        if in_cluster := [way for way in chosen if way.edit is None]:
            with breaker.without_argo_cd():
                run(in_cluster)
        run([way for way in chosen if way.edit is not None])
    sys.stdout.write(f"{len(unseen)} of {len(rows)} stayed green\n")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
