"""The workflows: linted, pinned, and their own `run:` lines executed in order.

Checkout, credentials and the like are what a workflow's `uses:` steps do; here a real bare
repository, a real registry and a real Kubernetes API stand in their place. What runs is read out
of the YAML, so a workflow that would break breaks here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.programs import require
from tests.release.conftest import World
from tests.release.images import key_pair
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.release.verification.test_verification import (
    DEPLOYMENTS,
    application,
    deployment,
    labels,
)

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yaml"))
KNOWN_ACTIONS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("actions.yaml").read_text(encoding="utf-8")
)


def loaded(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def steps(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = loaded(path)
    if "runs" in content:
        yield from (("action", step) for step in content["runs"]["steps"])
    for name, job in content.get("jobs", {}).items():
        yield from ((name, step) for step in job["steps"])


def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(
        [require("actionlint"), *map(str, WORKFLOWS)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing() -> None:
    zizmor = Path(sys.executable).parent / "zizmor"
    done = subprocess.run(
        [str(zizmor), "--offline", "--no-progress", str(ROOT / ".github")],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_actions_are_those_their_own_repositories_have(path: Path) -> None:
    """Found: a pin that was no commit of the action, which ends a run before its first step."""
    text = path.read_text()
    for _, step in steps(path):
        uses = step.get("uses", "")
        if not uses or uses.startswith("./"):
            continue
        name, _, commit = uses.partition("@")
        assert name in KNOWN_ACTIONS, f"{name} is not in tests/release/actions.yaml"
        known = KNOWN_ACTIONS[name]
        assert commit == known["commit"], f"{name}: {commit} is not {known['tag']}"
        assert f"{uses} # {known['tag']}\n" in text, f"{uses} names another version"
        unknown = set(step.get("with", {})) - set(known["inputs"])
        assert not unknown, f"{name} {known['tag']} takes no {sorted(unknown)}"
        if name == "actions/checkout":
            assert step["with"]["persist-credentials"] is False


def test_the_list_of_actions_has_none_that_nobody_uses_and_none_on_an_old_node() -> None:
    used = {
        step["uses"].partition("@")[0]
        for path in (*WORKFLOWS, *ACTIONS)
        for _, step in steps(path)
        if "uses" in step and not step["uses"].startswith("./")
    }
    assert used == set(KNOWN_ACTIONS)
    for name, known in KNOWN_ACTIONS.items():
        assert known["using"] in ("node24", "composite"), name
        assert re.fullmatch(r"[0-9a-f]{40}", known["commit"]), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_secrets_are_read_in_environments_only(path: Path) -> None:
    """Found: whoever may push a branch could print the App's key, and with it write prod.

    An environment gives its secrets to runs of the branches that it names, a repository to all.
    """
    content = loaded(path)
    for name, job in content.pop("jobs").items():
        if _reads_secrets(job):
            assert job.get("environment"), f"{name} reads a secret outside of an environment"
        assert not re.search(r"toJSON\(\s*secrets|secrets\[", yaml.safe_dump(job)), name
    assert not _reads_secrets(content), "every job of the workflow would have it"


@pytest.mark.parametrize(
    ("written", "reads"),
    [
        ("${{ secrets.KEY }}", True),
        ("${{ secrets['KEY'] }}", True),
        ("${{ toJSON(secrets) }}", True),
        ("${{ format('{0}', Secrets.KEY) }}", True),
        ("inherit", False),
        ("see docs/secrets.md", False),
    ],
)
def test_a_secret_is_seen_however_it_is_read(written: str, reads: bool) -> None:
    assert _reads_secrets({"env": {"A": written}}) is reads
    assert _reads_secrets({"secrets": "inherit"})


def _reads_secrets(content: Any) -> bool:
    text = yaml.safe_dump(content, width=10_000)
    expressions = re.findall(r"\$\{\{.*?\}\}", text, re.DOTALL)
    inherits = re.search(r"^\s*secrets:", text, re.MULTILINE)
    return bool(inherits) or any(re.search(r"\bsecrets\b", one, re.I) for one in expressions)


def test_a_pull_requests_own_code_gets_no_token_that_writes() -> None:
    """Found: the job that ran the pull request's code might write comments and more."""
    content = loaded(ROOT / ".github/workflows/ci.yaml")
    for name, job in content["jobs"].items():
        writes = [right for right, level in job["permissions"].items() if level == "write"]
        if not writes:
            continue
        assert (name, writes) == ("comment", ["pull-requests"])
        [checkout] = [s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout@")]
        assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"


def test_a_rollback_finds_the_key_and_waits_for_nobody() -> None:
    """Its environment is its own: a reviewer of prod would stand before every rollback of prod."""
    job = loaded(ROOT / ".github/workflows/rollback.yaml")["jobs"]["rollback"]
    assert job["environment"] == "rollback"


def test_ci_runs_the_tests_with_every_python_that_is_promised() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        promised = tomllib.load(file)["project"]["requires-python"]
    versions = loaded(ROOT / ".github/workflows/ci.yaml")["jobs"]["test"]["strategy"]["matrix"]
    assert promised == f">={versions['python'][0]}"
    assert versions["python"] == ["3.11", "3.12", "3.13"]


def test_the_nightly_run_is_on_the_base_that_images_have() -> None:
    """One digest of Debian 12 with Python, and a newer one is written in both places."""
    image = loaded(ROOT / ".github/workflows/e2e.yaml")["jobs"]["e2e"]["container"]["image"]
    assert f"ARG PYTHON_IMAGE={image}\n" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_its_files_name_and_no_rights_of_its_own(path: Path) -> None:
    content = loaded(path)
    assert content["name"] == path.stem
    assert content["permissions"] == {}
    assert "concurrency" in content
    for name, job in content["jobs"].items():
        assert "timeout-minutes" in job, name
        for right in job["permissions"]:
            assert re.search(rf"^ +{right}: \w+ # \w+", path.read_text(), re.M), (name, right)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_step_is_a_make_target_or_a_release_command(path: Path) -> None:
    for job, step in steps(path):
        if "run" not in step or job == "gate":
            continue
        # A container without git and make needs them before there is a checkout.
        before = ("apt-get", "mount") if path.stem == "e2e" else ()
        assert step["run"].split()[0] in ("make", "release", *before), step["run"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_make_gets_nothing_from_outside_as_a_variable_of_its_own(path: Path) -> None:
    """Found: make ran `$(shell …)` out of the input of a workflow that has the App's key."""
    for _, step in steps(path):
        if "run" in step and step["run"].split()[0] == "make":
            command = step["run"].partition(">")[0]
            assert not re.search(r"[A-Z_]+=\S*[$\x60]", command), step["run"]


@pytest.mark.parametrize(
    ("target", "name"), [("model", "VERSION"), ("model", "TO"), ("image", "APP"), ("sign", "IMAGE")]
)
@pytest.mark.parametrize(
    "value", ["$(shell touch {})", "; touch {}", "`touch {}`", '"; touch {};"']
)
def test_what_a_workflow_gives_to_make_is_not_run(
    tmp_path: Path, target: str, name: str, value: str
) -> None:
    made = tmp_path / "made"
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("trainer", "flow", "cosign", "uv"):
        (programs / program).write_text("#!/bin/sh\nexit 0\n")
        (programs / program).chmod(0o755)
    makefile = (ROOT / "Makefile").read_text().replace("$(CURDIR)/.venv/bin", str(programs))
    (tmp_path / "Makefile").write_text(makefile.replace(".venv/.synced: ", ".venv/.synced: # "))
    (tmp_path / ".venv").mkdir()
    subprocess.run(
        ["make", target],
        cwd=tmp_path, check=False, capture_output=True, timeout=60,
        env={**os.environ, name: value.format(made)},
    )  # fmt: skip
    assert not made.exists()


def test_release_options_in_the_workflows_exist() -> None:
    """Every `release` line names a command and options that the command has."""
    from typer.main import get_command

    from release.cli import app

    root = get_command(app)
    for path in WORKFLOWS:
        for _, step in steps(path):
            words = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", step.get("run", "")).split()
            if not words or words[0] != "release":
                continue
            command: Any = root
            rest = words[1:]
            while rest and rest[0] in getattr(command, "commands", {}):
                command = command.commands[rest.pop(0)]
            known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            asked = {word for word in rest if word.startswith("--")}
            assert asked <= known, (path.name, asked - known)


def test_a_push_of_values_builds_nothing() -> None:
    build = loaded(ROOT / ".github/workflows/build.yaml")
    assert "values/**" in build[True]["push"]["paths-ignore"]  # YAML reads `on` as true


def test_each_workflow_reaches_the_cluster_of_its_environment() -> None:
    """Found: rollbacks of dev went to the cluster of prod."""
    asked = {
        path.stem: step["with"]["cluster"]
        for path in WORKFLOWS
        for _, step in steps(path)
        if "cluster" in step.get("with", {})
    }
    assert asked == {
        "build": "${{ vars.CLUSTER_DEV }}",
        "model": "${{ vars.CLUSTER_DEV }}",
        "promote": "${{ vars[format('CLUSTER_{0}', inputs.to)] }}",
        "rollback": "${{ vars[format('CLUSTER_{0}', inputs.environment)] }}",
    }
    docs = (ROOT / "docs/release/workflows.md").read_text()
    for environment in ("DEV", "STAGE", "PROD"):
        assert f"`CLUSTER_{environment}`" in docs


def test_a_promotion_asks_no_cluster_about_its_source() -> None:
    """Found: what the source runs was judged with the target's kubeconfig."""
    [line] = [s["run"] for _, s in steps(ROOT / ".github/workflows/promote.yaml")
              if s.get("id") == "promote"]  # fmt: skip
    assert "--no-verify" in line.split()


def test_the_rollback_of_one_service_cancels_no_others() -> None:
    """Found: in one group a waiting rollback gives way to that of another service."""
    group = loaded(ROOT / ".github/workflows/rollback.yaml")["concurrency"]["group"]
    assert "inputs.environment" in group and "inputs.service" in group


def test_a_step_after_a_commit_does_not_hang_on_there_being_one() -> None:
    """Found: repeated after a failed verdict, nothing was left to commit and the run was green."""
    for name in ("build", "model", "promote"):
        [(_, step)] = [
            (job, step)
            for job, step in steps(ROOT / f".github/workflows/{name}.yaml")
            if "release verify" in step.get("run", "")
        ]
        assert "outputs" not in step.get("if", ""), name
        assert '${COMMIT:+--commit "$COMMIT"}' in step["run"]


@dataclass
class Runner:
    """Runs a workflow's own steps: `run:` lines in bash, files and outputs as GitHub keeps them."""

    folder: Path
    workflow: dict[str, Any]
    environment: dict[str, str]
    inputs: dict[str, str] = field(default_factory=dict)
    _outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def job(self, name: str, matrix: dict[str, str] | None = None) -> None:
        self._outputs = {}
        for step in self.workflow["jobs"][name]["steps"]:
            if "run" in step and self._wanted(step.get("if", "")):
                self._run(step, matrix or {})
            elif "uses" in step and step.get("id") and "run" not in step:
                self._outputs[step["id"]] = {"token": "no-token"}

    def output(self, step: str, name: str) -> str:
        return self._outputs.get(step, {}).get(name, "")

    def _wanted(self, condition: str) -> bool:
        match = re.fullmatch(r"\$\{\{ !inputs\.(\w+) \}\}", condition)
        assert match or not condition, f"the test does not know the condition {condition!r}"
        return not match or self.inputs.get(match[1], "") != "true"

    def _value(self, text: object, matrix: dict[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            expression = match[1].strip()
            if found := re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression):
                return self.output(found[1], found[2])
            if found := re.fullmatch(r"inputs\.(\w+)", expression):
                return self.inputs.get(found[1], "")
            if found := re.fullmatch(r"matrix\.(\w+)", expression):
                return matrix[found[1]]
            if found := re.fullmatch(r"inputs\.(\w+) && 'yes' \|\| ''", expression):
                return "yes" if self.inputs.get(found[1]) == "true" else ""
            assert expression == "github.token", f"the test does not know {expression!r}"
            return "no-token"

        return re.sub(r"\$\{\{(.*?)\}\}", value, str(text))

    def _run(self, step: dict[str, Any], matrix: dict[str, str]) -> None:
        output = self.folder / "github-output"
        output.write_text("")
        own = {key: self._value(value, matrix) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "-e", "-c", self._value(step["run"], matrix)],
            cwd=self.folder,
            env={**os.environ, **self.environment, **own, "GITHUB_OUTPUT": str(output)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{step['run']}\n{done.stdout}\n{done.stderr}"
        if "id" in step:
            lines = [line.partition("=") for line in output.read_text().splitlines()]
            self._outputs[step["id"]] = {name: value for name, _, value in lines}


MAKEFILE = """\
# Stands in for the image build: content in, reference out, like `make image`.
.PHONY: image sign
image:
\t@{python} {script} push {host} slipway/$(APP) {tag}
sign:
\t@{python} {script} sign $(IMAGE) {key}
"""


@dataclass
class Actions:
    """Everything a workflow finds: a checkout of main, a registry, a cluster."""

    world: World
    kube: Kubernetes
    registry: str

    def runner(self, name: str, **inputs: str) -> Runner:
        world = self.world
        shutil.rmtree(world.clone)
        world.git("clone", "-q", str(world.remote), str(world.clone), cwd=world.folder)
        revision = world.git("rev-parse", "HEAD")
        key, public = world.folder / "signer.key", world.folder / "signer.pub"
        if not key.exists():
            for file, content in zip((key, public), key_pair(), strict=True):
                file.write_bytes(content)
        (world.clone / "Makefile").write_text(
            MAKEFILE.format(
                python=sys.executable,
                script=ROOT / "tests/release/images.py",
                host=self.registry,
                tag=revision[:12],
                key=key,
            )
        )
        return Runner(
            world.clone,
            loaded(ROOT / f".github/workflows/{name}.yaml"),
            {
                **world.environment,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "MANIFEST_REPO": str(world.remote),
                "KUBECONFIG": str(self.kube.kubeconfig),
                "GITHUB_SHA": revision,
                "GITHUB_ACTOR": "octo",
                # In GitHub it is the workflow's identity (the job's SIGNATURE_IDENTITY).
                "SIGNATURE_KEY": str(public),
            },
            inputs,
        )

    def controllers(self, environment: str) -> None:
        """What Argo CD and the controllers make of the newest commit."""
        head = self.world.head()
        for release in ("inference", "proxy", "unzip", "worker"):
            app = application(release, head)
            app["metadata"]["name"] = f"{environment}-{release}"
            self.kube.put(APPLICATIONS, app, subresource=False)
            text = self.world.file(f"values/{environment}/{release}.image.yaml").decode()
            image = yaml.safe_load(text)["image"]
            if not image["digest"] or release == "unzip":
                continue
            reference = f"{image['repository']}:{image['tag']}@{image['digest']}"
            made = deployment(release, "x")
            made["spec"]["template"]["spec"]["containers"][0]["image"] = reference
            path = DEPLOYMENTS.replace("/dev/", f"/{environment}/")
            self.kube.put(path, made)
            pods = f"/api/v1/namespaces/{environment}/pods"
            pod = {
                "metadata": {
                    "name": f"{release}-{image['digest'][7:15]}",
                    "labels": labels(release),
                },
                "spec": {"containers": [{"name": release, "image": reference}]},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }
            self.kube.put(pods, pod)


@pytest.fixture
def actions(world: World, api: Kubernetes, registry: str) -> Actions:
    api.empty()
    project = '[project]\nname = "slipway-{}"\ndependencies = ["slipway-kit"]\n'
    world.push(
        {
            "Dockerfile": "FROM scratch\n",
            "apps/kit/pyproject.toml": '[project]\nname = "slipway-kit"\n',
            **{f"apps/{n}/pyproject.toml": project.format(n) for n in ("proxy",)},
        },
        "Add a service",
    )
    return Actions(world, api, registry)


def build(actions: Actions) -> list[str]:
    """The build workflow from its first `run:` to its last; the images that were built."""
    runner = actions.runner("build")
    runner.job("plan")
    images: list[str] = json.loads(runner.output("affected", "images"))
    for app in images:
        runner.job("image", {"app": app})
    if images:
        # What upload-artifact and download-artifact do between two jobs.
        folder = runner.folder / "images"
        folder.mkdir()
        for app in images:
            (runner.folder / f"image-{app}").rename(folder / f"image-{app}")
        watched = _Controllers(actions, "dev")
        with watched:
            runner.job("deploy")
    return images


class _Controllers:
    """Runs the stand-in controllers whenever the remote's head moves."""

    def __init__(self, actions: Actions, environment: str) -> None:
        import threading

        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(actions, environment))

    def _work(self, actions: Actions, environment: str) -> None:
        seen = ""
        while not self._stop.wait(0.05):
            head = actions.world.head()
            if head != seen:
                actions.controllers(environment)
                seen = head

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.timeout(300)  # some twenty processes, each of which is a whole step
def test_build_promote_and_rollback_run_as_written(actions: Actions) -> None:
    world = actions.world
    assert build(actions) == ["proxy"]
    first = world.file("values/dev/proxy.image.yaml")
    assert b'digest: "sha256:' in first
    notes = world.git("log", "-1", "--notes=verdicts", "--format=%N", "main", cwd=world.remote)
    assert '"verdict": "deployed"' in notes

    assert build(actions) == []  # nothing changed, nothing is built

    world.push({"apps/proxy/main.py": "print(2)\n"}, "Change the proxy")
    assert build(actions) == ["proxy"]
    second = world.file("values/dev/proxy.image.yaml")
    assert second != first

    runner = actions.runner("promote", **{"from": "dev", "to": "stage", "expect": "HEAD"})
    runner.inputs["expect"] = world.head()
    with _Controllers(actions, "stage"):
        runner.job("promote")
    assert world.file("values/stage/proxy.image.yaml") == second

    def verdicts() -> list[str]:
        log = ("log", "-1", "--notes=verdicts", "--format=%N", "main")
        return world.git(*log, cwd=world.remote).split("\n\n")

    assert len(verdicts()) == 1
    runner = actions.runner("promote", **{"from": "dev", "to": "stage"})
    runner.job("promote")  # repeated: nothing to promote, and a verdict all the same
    assert len(verdicts()) == 2

    runner = actions.runner("rollback", environment="dev", reason="a test")
    with _Controllers(actions, "dev"):
        runner.job("rollback")
    assert world.file("values/dev/proxy.image.yaml") == first
    assert b"a test" in world.file("values/dev/hold.yaml")

    runner = actions.runner("rollback", environment="dev", reason="again")
    head = world.head()
    runner.job("rollback")  # nothing to change; what is there is healthy
    assert world.head() == head
