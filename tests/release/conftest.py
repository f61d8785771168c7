"""A manifest repository to work on: a bare remote, a clone, and a registry that runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from release.cli import app
from release.git.repository import open_repo
from release.records import verdicts
from release.render import helm
from release.verification.target import target_of
from tests.ports import free_port
from tests.programs import require
from tests.release.kube import Kubernetes, kubernetes
from tests.release.render_cache import remembering
from tests.waits import until

HEADER = "# Written by `release`; do not edit.\n"
EMPTY_IMAGE = HEADER + 'image:\n  repository: ""\n  tag: ""\n  digest: ""\n  revision: ""\n'
NO_MODELS = HEADER + "models: {}\n"
ENVIRONMENTS = ("dev", "stage", "prod")
RELEASES = ("inference", "proxy", "unzip", "worker")


@dataclass
class Answer:
    """What one run of the command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class World:
    """A remote with three environments, and a clone of it to make source commits in."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def remote(self) -> Path:
        return self.folder / "remote.git"

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.clone,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **self.environment},
        )
        assert done.returncode == 0, f"git {arguments}: {done.stderr}"
        return done.stdout.strip()

    def head(self) -> str:
        return self.git("rev-parse", "main", cwd=self.remote)

    def file(self, path: str, commit: str = "main") -> bytes:
        shown = subprocess.run(
            ["git", "cat-file", "blob", f"{commit}:{path}"],
            cwd=self.remote,
            capture_output=True,
            check=True,
        )
        return shown.stdout

    def exists(self, path: str) -> bool:
        code = subprocess.run(
            ["git", "cat-file", "-e", f"main:{path}"], cwd=self.remote, check=False,
            capture_output=True,
        )  # fmt: skip
        return code.returncode == 0

    def push(self, edits: dict[str, str | None], message: str = "Work") -> str:
        """A person's commit on top of the remote's main."""
        self.git("fetch", "-q", "origin", "main")
        self.git("checkout", "-q", "-B", "main", "origin/main")
        for path, content in edits.items():
            target = self.clone / path
            if content is None:
                self.git("rm", "-q", path)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode())
            self.git("add", path)
        self.git("commit", "-q", "--allow-empty", "-m", message)
        self.git("push", "-q", "origin", "main")
        return self.git("rev-parse", "HEAD")

    def source(self) -> str:
        """A new source commit: what images are built of."""
        commit = self.git(
            "commit-tree", "main^{tree}", "-p", "main", "-m", "Change the source", cwd=self.remote
        )
        self.git("update-ref", "refs/heads/main", commit, cwd=self.remote)
        return commit

    def run(self, *arguments: str, repo: Path | None = None, **environment: str) -> Answer:
        """`release arguments` in this process, on the remote."""
        result = CliRunner().invoke(
            app,
            list(arguments),
            env={
                **self.environment,
                "MANIFEST_REPO": str(repo or self.remote),
                "COLUMNS": "200",
                **environment,
            },
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    def spawn(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`release arguments` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "release.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={
                **os.environ,
                **self.environment,
                "MANIFEST_REPO": str(self.remote),
                **environment,
            },
        )

    def deploy(self, seed: str, revision: str, *names: str, env: str = "dev") -> Answer:
        """`image set` of made-up digests, without asking a registry."""
        images = [f"--image={reference(name, seed)}" for name in names or ("proxy",)]
        return self.run(
            "image", "set", "--env", env, *images, "--revision", revision, "--no-check-registry",
            "--json",
        )  # fmt: skip


def digest(seed: str) -> str:
    return "sha256:" + hashlib.sha256(seed.encode()).hexdigest()


def reference(name: str, seed: str) -> str:
    return f"{name}=registry.test/slipway/{name}:{seed}@{digest(name + seed)}"


IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "USER": "ada",
    "LOGNAME": "ada",
}


@pytest.fixture(scope="session", autouse=True)
def renders() -> Iterator[None]:
    """Helm is started once for what it was asked already in this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helm, "_render", remembering(helm._render))
        yield


@pytest.fixture(scope="session")
def first_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What every test begins with: three environments, nothing deployed in any."""
    made = World(tmp_path_factory.mktemp("world"), dict(IDENTITY))
    made.git("init", "-q", "--bare", "-b", "main", str(made.remote), cwd=made.folder)
    made.git("clone", "-q", str(made.remote), str(made.clone), cwd=made.folder)
    made.git("checkout", "-q", "-b", "main")
    for environment in ENVIRONMENTS:
        values = made.clone / "values" / environment
        values.mkdir(parents=True)
        for release in RELEASES:
            (values / f"{release}.image.yaml").write_text(EMPTY_IMAGE)
            (values / f"{release}.yaml").write_text("# what differs here\nreplicas: 1\n")
        (values / "inference.models.yaml").write_text(NO_MODELS)
        argocd = made.clone / "argocd/environments"
        argocd.mkdir(parents=True, exist_ok=True)
        (argocd / f"{environment}.yaml").write_text(application_set(environment))
    for release in RELEASES:
        service = made.clone / "values/services" / release
        service.mkdir(parents=True)
        (service / "service.yaml").write_text("replicas: 1\n")
    made.git("add", ".")
    made.git("commit", "-q", "-m", "Begin")
    made.git("push", "-q", "origin", "main")
    return made


@pytest.fixture
def world(first_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy of `first_world` of the test's own."""
    for variable in ("GITHUB_ACTOR", "SOURCE_REPO", "MANIFEST_BRANCH", "SOURCE_REVISION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)  # so that no test works on the repository it lies in
    shutil.copytree(first_world.folder, tmp_path, dirs_exist_ok=True)
    made = World(tmp_path, dict(IDENTITY))
    config = made.clone / ".git" / "config"
    config.write_text(config.read_text().replace(str(first_world.remote), str(made.remote)))
    return made


def application_set(environment: str, *more: str) -> str:
    return application_set_of(environment, *map(row, (*RELEASES, *more)))


def row(release: str, chart: str = "service") -> str:
    """A release as a row; the worker shares what the proxy has, a variant what it is one of."""
    of = "proxy" if release == "worker" else release.partition("-challenger")[0]
    shared = f", of: {of}" if of != release else ", reads: routes" if chart == "routing" else ""
    return f"{{release: {release}, chart: {chart}{shared}}}"


def application_set_of(environment: str, *rows: str) -> str:
    """An ApplicationSet with these rows, whose releases read the files that a real one does."""
    listed = "".join(f"          - {row}\n" for row in rows)
    files = "".join(
        f"            - ../../values/{path}\n"
        for path in (
            "platform/one-machine.yaml",
            'services/{{ dig "of" .release . }}/service.yaml',
            "services/{{ .release }}/service.yaml",
            'services/proxy/{{ dig "reads" "none" . }}.yaml',
            f"{environment}/{{{{ .release }}}}.yaml",
            f"{environment}/{{{{ .release }}}}.image.yaml",
            f"{environment}/{{{{ .release }}}}.models.yaml",
            f"{environment}/{{{{ .release }}}}.servers.yaml",
        )
    )
    return (
        "apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\n"
        f"metadata: {{name: {environment}}}\n"
        f"spec:\n  goTemplate: true\n  generators:\n    - list:\n        elements:\n{listed}"
        "  template:\n    spec:\n      source:\n        path: charts/{{ .chart }}\n"
        f"        helm:\n          valueFiles:\n{files}"
        f"      destination: {{namespace: {environment}}}\n"
    )


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a real registry."""
    program = require("docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    config = folder / "config.yaml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    host = f"127.0.0.1:{port}"
    try:

        def answers() -> bool:
            assert process.poll() is None, f"docker-registry ended with {process.returncode}"
            try:
                return httpx.get(f"http://{host}/v2/").is_success
            except httpx.HTTPError:
                return False

        until(answers, "the registry")
        yield host
    finally:
        process.terminate()
        process.wait(90)
        shutil.rmtree(folder, ignore_errors=True)


def seen_healthy(
    world: World, env: str, *, verdict: str = "deployed", when: str = "", past: bool = False
) -> None:
    """Record a verdict on what the environment is now; ``past`` forgets the earlier ones."""
    with open_repo(str(world.remote), "main", environment=world.environment) as repo:
        if past:
            world.git("update-ref", "-d", verdicts.REF, cwd=world.remote)
        target = target_of(repo, env, None)
        time = datetime.fromisoformat(when) if when else datetime.now(UTC)
        made = verdicts.make(env, verdict, target.files, by="test", now=time)
        verdicts.record(repo, target.commit, made)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """A Kubernetes API of the suite's own."""
    with kubernetes(tmp_path_factory.mktemp("kubernetes")) as running:
        yield running
