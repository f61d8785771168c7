# ruff: noqa: E501 - one way stands on one line
"""Breaks a running environment in the ways that hurt its users, and tells who notices.

``python -m tests.breakage`` (``make breakage``) needs the cluster of `make up`. Each way is either a
commit, which `release validate` is shown first and which is only deployed where validate lets it
pass, or a change in the cluster, made while Argo CD's controller is stopped so that nothing heals
it. Everything is put back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow import site as sites

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = "dev"
CONTROLLER = "statefulset/argocd-application-controller"
VERIFY_SECONDS = 90
OTHER = '{"digits": {"type": "http", "url": "http://%s:8080"%s}}'

Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Way:
    """One way: a change of files, or commands of kubectl on the environment's objects."""

    kind: str
    what: str
    edit: Edit | None = None
    kubectl: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    """Objects to be kept and put back, as ``kind/name``."""
    namespace: str = ENVIRONMENT


def written(path: str, text: str) -> Edit:
    """The file with more lines at its end."""

    def edit(root: Path) -> None:
        file = root / path
        file.write_text(file.read_text() + text)

    return edit


def replaced(path: str, old: str, new: str) -> Edit:
    """The file with one text instead of another."""

    def edit(root: Path) -> None:
        file = root / path
        assert old in file.read_text(), f"{path} has no {old!r}"
        file.write_text(file.read_text().replace(old, new, 1))

    return edit


def setting(release: str, name: str, value: str) -> Edit:
    """An environment variable of a release, set below the ``env`` that its file has."""
    return replaced(f"values/dev/{release}.yaml", "env:\n", f"env:\n  {name}: '{value}'\n")


def model(release: str, key: str, value: str) -> Edit:
    """A line of a release's model file."""

    def edit(root: Path) -> None:
        file = root / f"values/dev/{release}.model.yaml"
        lines = file.read_text().splitlines()
        file.write_text(
            "".join(
                f"  {key}: {value}\n" if x.strip().startswith(f"{key}:") else f"{x}\n"
                for x in lines
            )
        )

    return edit


def image(release: str, digest: str) -> Edit:
    """Another digest in a release's image file."""

    def edit(root: Path) -> None:
        file = root / f"values/dev/{release}.image.yaml"
        lines = file.read_text().splitlines()
        file.write_text(
            "".join(
                f"  digest: {digest}\n" if x.strip().startswith("digest:") else f"{x}\n"
                for x in lines
            )
        )

    return edit


WAYS = (
    Way("address", "one letter of a backend's host", setting("proxy", "PROXY_BACKENDS", OTHER % ("inferenc", ""))),
    Way("address", "another port of Redis", replaced("values/dev/proxy.yaml", "redis.slipway-system:6379", "redis.slipway-system:6380")),
    Way("service", "a Service is deleted", None, ("delete", "service/inference"), ("service/inference",)),
    Way("service", "`service.enabled: false`", written("values/dev/inference.yaml", "service: {enabled: false}\n")),
    Way("model", "a version that nobody published", model("inference", "uri", "s3://models/digits/99")),
    Way("model", "another name at the backend", setting("proxy", "PROXY_BACKENDS", OTHER % ("inference", ', "model": "digitz"'))),
    Way("certificate", "a tlsSecret that is not there", written("values/dev/routing.yaml", "gateway: {tlsSecret: nobody}\n")),
    Way("certificate", "authorities in a file that is not there", setting("proxy", "PROXY_CA_FILE", "/etc/nobody.pem")),
    Way("quota", "room for three pods", replaced("values/dev/environment.yaml", "pods: 30", "pods: 3")),
    Way("quota", "40 replicas", replaced("values/dev/inference.yaml", "replicas: 1", "replicas: 40")),
    Way("network policy", "the proxy's row is gone", replaced("values/base/environment.yaml", "{proxy: [8080/TCP], worker: [8080/TCP]}", "{worker: [8080/TCP]}")),
    Way("network policy", "S3 is no peer of the model server", replaced("values/base/environment.yaml", "worker: [8080/TCP]}\n    to: [s3]", "worker: [8080/TCP]}\n    to: []")),
    Way("authorization", "a policy that knows no caller", None, ("patch", "authorizationpolicy/inference-callers", "--type=merge", "-p", '{"spec":{"rules":[{"from":[{"source":{"principals":["cluster.local/ns/dev/sa/nobody"]}}]}]}}'), ("authorizationpolicy/inference-callers",)),
    Way("authorization", "the gateway may ask /v1 alone", replaced("values/base/routing.yaml", "gateway: {notPaths: [/metrics, /livez, /readyz]}", "gateway: {paths: [/v1/*]}")),
    Way("route", "the VirtualService is deleted", None, ("delete", "virtualservice/public"), ("virtualservice/public",)),
    Way("route", "another host", replaced("values/dev/routing.yaml", "dev.slipway.localhost", "dve.slipway.localhost")),
    Way("image", "a digest that is in no registry", image("proxy", "sha256:" + "d" * 64)),
    Way("image", "another image in the Deployment", None, ("set", "image", "deployment/proxy", "proxy=127.0.0.1:5000/slipway/nobody@sha256:" + "d" * 64), ("deployment/proxy",)),
    Way("secret", "the Secret is deleted, and a pod", None, ("delete", "secret/s3-credentials", "pod", "-l", "app.kubernetes.io/instance=proxy"), ("secret/s3-credentials",)),
    Way("secret", "a Secret of another name", written("values/dev/proxy.yaml", "envFromSecrets: {s3-creds: true}\n")),
    Way("proxy and worker", "the worker has other backends", setting("worker", "PROXY_BACKENDS", OTHER % ("inference", ', "timeout_seconds": 1'))),
    Way("proxy and worker", "the worker has another Redis database", replaced("values/dev/worker.yaml", ":6379/0", ":6379/7")),
    Way("pods", "nobody runs the proxy", None, ("scale", "deployment/proxy", "--replicas=0"), ("deployment/proxy",)),
    Way("pods", "nobody runs the gateway", None, ("scale", "deployment/ingressgateway", "--replicas=0"), ("deployment/ingressgateway",), "istio-ingress"),
)  # fmt: skip


@dataclass
class Said:
    """What a command said of it, and after how many seconds."""

    green: bool
    text: str
    seconds: float

    def __str__(self) -> str:
        word = "green" if self.green else self.text
        return f"{word} ({self.seconds:.0f} s)"


class Breaker:
    """Breaks, asks, and puts back."""

    def __init__(self, site: sites.Site, *, validate_only: bool = False) -> None:
        self.validate_only = validate_only
        self.site = site
        self.repo = str(site.manifest_repo)
        self.environment = {
            **os.environ, "MANIFEST_REPO": self.repo, "COLUMNS": "250",
            "KUBECONFIG": str(site.kubectl.kubeconfig),
        }  # fmt: skip

    def run(self, way: Way) -> dict[str, Said]:
        """What validate, verify and status say of one way."""
        return self.by_commit(way) if way.edit is not None else self.in_cluster(way)

    def by_commit(self, way: Way) -> dict[str, Said]:
        """Validate first; only what it lets pass is pushed."""
        assert way.edit is not None
        with tempfile.TemporaryDirectory(prefix="slipway-breakage-") as scratch:
            # As a pull request would have it: the cluster's repository may hold what tests left.
            source, clone = Path(scratch) / "source", Path(scratch) / "clone"
            self.git("clone", "--quiet", str(ROOT), str(source))
            way.edit(source)
            found = self.release("validate", str(source), "--env", ENVIRONMENT)
            said = {"validate": found}
            if not found.green or self.validate_only:
                return said
            self.git("clone", "--quiet", self.repo, str(clone))
            way.edit(clone)
            before = self.git("-C", str(clone), "rev-parse", "HEAD")
            self.push(clone, f"Break: {way.what}")
            try:
                said |= self.verdicts()
            finally:
                self.git("-C", str(clone), "checkout", "--quiet", before, "--", ".")
                self.push(clone, f"Put back: {way.what}")
                self.release("verify", "--env", ENVIRONMENT, "--timeout", "240", "--no-record")
            return said

    def in_cluster(self, way: Way) -> dict[str, Said]:
        """Without Argo CD's controller, which would heal it before anybody looked."""
        kubectl = self.site.kubectl
        kept = [kubectl.get(name, "-n", way.namespace) for name in way.objects]
        kubectl.run("scale", CONTROLLER, "-n", "argocd", "--replicas=0")
        try:
            kubectl.run(
                "wait", "--for=delete", "pod/argocd-application-controller-0", "-n", "argocd"
            )
            for command in self.commands(way):
                kubectl.run(*command, "-n", way.namespace)
            return self.verdicts()
        finally:
            for item in kept:
                kubectl.apply(json.dumps(bare(item)))
            kubectl.run("scale", CONTROLLER, "-n", "argocd", "--replicas=1")
            self.release("verify", "--env", ENVIRONMENT, "--timeout", "240", "--no-record")

    @staticmethod
    def commands(way: Way) -> list[tuple[str, ...]]:
        """A deletion of an object and of pods is two commands."""
        words = way.kubectl
        if "pod" in words:
            cut = words.index("pod")
            return [words[:cut], ("delete", *words[cut:])]
        return [words]

    def verdicts(self) -> dict[str, Said]:
        """Status at once, then verify, then status again if it saw nothing at first."""
        started = time.monotonic()
        status = self.release("status", "--env", ENVIRONMENT)
        verify = self.release(
            "verify", "--env", ENVIRONMENT, f"--timeout={VERIFY_SECONDS}", "--no-record",
            "--gateway", f"{sites.GATEWAY.replace('127.0.0.1', '{host}')}",
        )  # fmt: skip
        if status.green:
            status = self.release("status", "--env", ENVIRONMENT)
            status.seconds = time.monotonic() - started
        return {"verify": verify, "status": status}

    def release(self, *arguments: str) -> Said:
        """One command; its first line of trouble."""
        started = time.monotonic()
        done = subprocess.run(
            ["release", *arguments], capture_output=True, text=True, check=False,
            env=self.environment, cwd=ROOT,
        )  # fmt: skip
        seconds = time.monotonic() - started
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        trouble = [
            line
            for line in lines
            if "Fix:" in line or line.startswith(("release:", f"{ENVIRONMENT}/"))
        ]
        cause = [line for line in trouble if line.startswith(f"{ENVIRONMENT}/")]
        if arguments[0] == "status":
            return Said(done.returncode == 0 and not cause, " ".join(cause[:1]), seconds)
        return Said(done.returncode == 0, (trouble or lines or [""])[0], seconds)

    def push(self, clone: Path, subject: str) -> None:
        """Commit whatever differs and push it."""
        who = ("-c", "user.name=breakage", "-c", "user.email=breakage@localhost")
        self.git("-C", str(clone), *who, "commit", "--quiet", "--all", "-m", subject)
        self.git("-C", str(clone), "push", "--quiet", "origin", "HEAD:main")

    @staticmethod
    def git(*arguments: str) -> str:
        """Git's answer."""
        done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """An object without what the API server wrote into it."""
    kept = ("name", "namespace", "labels", "annotations")
    metadata = {key: value for key, value in item["metadata"].items() if key in kept}
    if item["kind"] == "Service":
        for key in ("clusterIP", "clusterIPs"):
            item["spec"].pop(key, None)
    return {**{k: v for k, v in item.items() if k != "status"}, "metadata": metadata}


def table(results: list[tuple[Way, dict[str, Said]]]) -> str:
    """One row a way, in Markdown."""
    rows = ["| kind | what | validate | verify | status |", "|---|---|---|---|---|"]
    for way, said in results:
        cells = [
            str(said[name]).replace("|", "\\|") if name in said else "-"
            for name in ("validate", "verify", "status")
        ]
        rows.append(f"| {way.kind} | {way.what} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Run the ways that were asked for; 1 where one of them stayed green everywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="kinds of ways; all when left out")
    parser.add_argument("--to", type=Path, help="file for the table")
    parser.add_argument("--only", choices=("commits", "cluster"))
    parser.add_argument("--validate-only", action="store_true", help="deploy nothing")
    given = parser.parse_args()
    assert shutil.which("release"), "release is not installed: run `make setup`"
    breaker = Breaker(sites.one_machine(), validate_only=given.validate_only)
    results = []
    for way in WAYS:
        left_out = (given.kinds and way.kind not in given.kinds) or (
            given.only and (way.edit is not None) != (given.only == "commits")
        )
        if left_out:
            continue
        said = breaker.run(way)
        results.append((way, said))
        sys.stdout.write(table([(way, said)]).splitlines()[2] + "\n")
        sys.stdout.flush()
        if given.to:
            given.to.write_text(table(results))
    unseen = [way for way, said in results if all(one.green for one in said.values())]
    sys.stdout.write(f"{len(unseen)} of {len(results)} stayed green\n")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
