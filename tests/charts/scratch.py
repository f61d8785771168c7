"""A namespace of its own on the running cluster, made from the charts, for trying routes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from tests import programs
from tests.charts.rendering import ROOT, Manifest, helm, manifests, namespace

T = TypeVar("T")
# Another name keeps two runs on one cluster apart.
NAMESPACE = os.environ.get("SLIPWAY_SCRATCH", "scratch")
HOST = f"{NAMESPACE}.slipway.localhost"
GATEWAY = "http://127.0.0.1:8080"
FIXTURES = ROOT / "tests/fixtures/scratch"
PLATFORM = ROOT / "values/platform/one-machine.yaml"
BY_THE_GATEWAY = {"gateway": {"ports": ["8080/TCP"], "notPaths": ["/metrics"]}}
# A blank digit: 8 x 8 pixels in [0, 16].
DIGIT = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}


def kubeconfig() -> Path:
    """The running cluster's, as `make` finds it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KUBECONFIG") or Path(base) / "slipway/cluster/kubeconfig")


def kubectl(*arguments: str, text: str = "", check: bool = True) -> str:
    """Run kubectl on the running cluster; its output, errors too where they are not checked."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig())}
    answer = subprocess.run(
        [programs.require("kubectl"), *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert answer.returncode == 0 or not check, f"{arguments}: {answer.stderr}"
    return answer.stdout if check else answer.stdout + answer.stderr


def wait_for(namespace: str, deployment: str) -> None:
    """Until a Deployment has rolled out."""
    kubectl("rollout", "status", f"deployment/{deployment}", "-n", namespace, "--timeout=180s")


def access_log(
    namespace: str, selector: str, container: str, since: datetime
) -> list[dict[str, Any]]:
    """The lines that the Envoys of a namespace's pods wrote of their requests."""
    text = kubectl(
        *("logs", "-n", namespace, "-l", selector, "-c", container, "--tail=-1"),
        f"--since-time={since.isoformat(timespec='seconds')}",
    )
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if "response_code_details" in line]


def eventually(read: Callable[[], T], wanted: Callable[[T], bool], seconds: float = 60) -> T:
    """Read until it is as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        seen = read()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still {seen!r}"
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client saw."""

    status: int
    variant: str
    pod: str
    seconds: float
    headers: Mapping[str, str]
    text: str


@dataclass
class Scratch:
    """The namespace, and what its routes are now."""

    image: Manifest
    models: Manifest
    # What carries the routes: the routing chart's value of this name.
    api: str = "istio"
    gateway: str = GATEWAY
    applied: set[str] = field(default_factory=set)

    def release(self, name: str, **values: Any) -> None:
        """Make or change a release of charts/service from the shipped values of its service.

        The gateway is a caller of each that has a Service, beside those of ``callers``.
        """
        service = name.partition("-challenger")[0]
        of = "proxy" if service == "worker" else service
        own = {"image": self.image[service], **values}
        if service == "inference":
            own["models"] = self.models
        if service != "worker":
            own["callers"] = {**BY_THE_GATEWAY, **values.get("callers", {})}
        files = [
            ROOT / "values/services" / one / "service.yaml" for one in dict.fromkeys((of, service))
        ]
        self._apply("service", name, files, own)

    def policies(self, name: str) -> None:
        """Let the gateway call pods that no chart makes (`apply_stub`)."""
        own = {"callers": BY_THE_GATEWAY, "service": {"enabled": False}}
        self._apply("service", name, [], own)

    def environment(self, **values: Any) -> None:
        """Make the guard rails."""
        own = yaml.safe_load((FIXTURES / "environment.yaml").read_text(encoding="utf-8"))
        kubectl("apply", "--server-side", "-f", "-", text=namespace("dev", NAMESPACE))
        self._apply("environment", "environment", [], own | values)

    def routes(self, services: Mapping[str, Any] | None = None, **values: Any) -> None:
        """Change the routes: ``services`` are merged into the fixture's."""
        own = yaml.safe_load((FIXTURES / "routing.yaml").read_text(encoding="utf-8"))
        for name, changes in (services or {}).items():
            own["services"].setdefault(name, {}).update(changes)
        own |= {"hosts": [HOST], "api": self.api, **values}
        self._apply("routing", "routing", [], own, prune=True)

    def _apply(
        self, chart: str, name: str, base: Sequence[Path], own: Manifest, *, prune: bool = False
    ) -> None:
        folder = Path(os.environ.get("TMPDIR", "/tmp"))
        path = folder / f"slipway-scratch-{os.getpid()}-{name}.yaml"
        path.write_text(json.dumps(own), encoding="utf-8")
        try:
            answer = helm(ROOT / "charts" / chart, name, NAMESPACE, [PLATFORM, *base, path])
        finally:
            path.unlink()
        assert answer.returncode == 0, answer.stderr
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=answer.stdout)
        if prune:
            now = {_identity(one) for one in manifests(answer.stdout)}
            for gone in self.applied - now:
                kind, namespace, one = gone.split("|")
                kubectl("delete", kind, one, "-n", namespace, "--ignore-not-found")
            self.applied = now

    def wait(self, *names: str) -> None:
        """Until these releases' pods are ready."""
        for name in names:
            wait_for(NAMESPACE, name)

    def ask(
        self,
        path: str = "/v2/models/digits/infer",
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        client: httpx.Client | None = None,
    ) -> Answer:
        """One request through the gateway."""
        begin = time.monotonic()
        send = client.request if client else httpx.request
        answer = send(
            method,
            self.gateway + path,
            headers={"Host": HOST, **(headers or {})},
            json=DIGIT if method == "POST" else None,
            timeout=30,
        )
        return Answer(
            answer.status_code,
            answer.headers.get("x-slipway-variant", ""),
            answer.headers.get("x-slipway-pod", ""),
            time.monotonic() - begin,
            dict(answer.headers),
            answer.text,
        )

    def count(
        self, requests: int, *, at_once: int = 1, by: str = "variant", **request: Any
    ) -> Counter[Any]:
        """Many requests, counted by a field of their answers."""
        with httpx.Client() as client, ThreadPoolExecutor(at_once) as pool:
            answers = pool.map(lambda _: self.ask(client=client, **request), range(requests))
            return Counter(getattr(answer, by) for answer in answers)

    def predictions_of_challenger(self) -> int:
        """How many rows the challenger has answered, as its own statistics say."""
        headers = {"X-Slipway-Arm": "challenger"}
        answer = self.ask("/v2/models/digits/stats", method="GET", headers=headers)
        assert answer.status == 200, answer.text
        stats = json.loads(answer.text)["model_stats"]
        return sum(int(one["inference_stats"]["success"]["count"]) for one in stats)


def _identity(manifest: Manifest) -> str:
    group, _, _ = manifest["apiVersion"].rpartition("/")
    kind = f"{manifest['kind']}.{group}" if group else manifest["kind"]
    metadata = manifest["metadata"]
    return f"{kind}|{metadata.get('namespace', '')}|{metadata['name']}"


def apply_stub(
    name: str,
    instance: str,
    always: int = 0,
    seconds: float = 0,
    labels: Mapping[str, str] | None = None,
) -> None:
    """A pod that runs the stub; a Service with this instance takes it for one of its own.

    It answers what is not for the stub by the status ``always`` (200 if 0) after ``seconds``.
    """
    deployment = json.loads(
        kubectl("get", "deployment", "inference", "-n", NAMESPACE, "-o", "json")
    )
    template = deployment["spec"]["template"]
    own = {"app.kubernetes.io/name": instance, "app.kubernetes.io/instance": instance}
    template["metadata"]["labels"] |= {**own, **(labels or {})}
    container = template["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(probe)
    program = (FIXTURES / "stub.py").read_text(encoding="utf-8")
    container |= {"command": ["python3", "-c", program, str(always), str(seconds)], "args": []}
    template["spec"]["initContainers"] = []
    template["spec"]["terminationGracePeriodSeconds"] = 1
    template["spec"].pop("topologySpreadConstraints", None)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": name, "namespace": NAMESPACE},
        "spec": template["spec"],
    }
    kubectl("apply", "--server-side", "-f", "-", text=json.dumps(pod))
    kubectl("wait", f"pod/{name}", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=120s")


def apply_service(instance: str) -> None:
    """A Service in front of the pods of an instance."""
    ports = [{"name": "http", "port": 8080, "targetPort": 8080, "appProtocol": "http"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": instance, "namespace": NAMESPACE},
        "spec": {"selector": {"app.kubernetes.io/instance": instance}, "ports": ports},
    }
    kubectl("apply", "--server-side", "-f", "-", text=json.dumps(service))


def delete_stub(name: str) -> None:
    """Take a stub away, without waiting for what it is still answering."""
    kubectl("delete", "pod", name, "-n", NAMESPACE, "--grace-period=0", "--force")


def become(name: str, status: int, seconds: float = 0) -> None:
    """Have a stub answer otherwise from now on, past every Envoy."""
    code = (
        "import urllib.request as r; "
        f"r.urlopen('http://127.0.0.1:8080/stub/become/{status}/{seconds}')"
    )
    container = ("exec", name, "-n", NAMESPACE, "-c", "inference", "--")
    kubectl(*container, "python3", "-c", code)


@contextmanager
def made(*, with_proxy: bool = False) -> Iterator[Scratch]:
    """The namespace with a model server, its challenger and a stub; removed afterwards."""
    images = {name: image_of(name) for name in ("inference", *(["proxy"] if with_proxy else []))}
    scratch = Scratch(images, models_of_dev())
    try:
        scratch.environment()
        secret = json.loads(kubectl("get", "secret", "s3-credentials", "-n", "dev", "-o", "json"))
        secret["metadata"] = {"name": "s3-credentials", "namespace": NAMESPACE}
        kubectl("apply", "--server-side", "-f", "-", text=json.dumps(secret))
        scratch.release("inference")
        scratch.release("inference-challenger")
        scratch.routes()
        scratch.wait("inference", "inference-challenger")
        scratch.policies("stub")
        apply_stub("stub", "stub")
        apply_service("stub")
        eventually(lambda: scratch.ask().status, lambda status: status == 200)
        yield scratch
    finally:
        # What lies outside of the namespace (tokens at the gateway) goes with its route.
        scratch.api = "istio"
        scratch.routes()
        kubectl("delete", "namespace", NAMESPACE, "--wait=true", "--ignore-not-found")


def image_of(release: str) -> Manifest:
    """The image that dev runs for a release, as values."""
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    reference = kubectl("get", "deployment", release, "-n", "dev", "-o", path)
    name, _, digest = reference.partition("@")
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag, "digest": digest, "revision": tag}


def models_of_dev() -> Manifest:
    """The models that dev's inference fetches, as values."""
    path = "jsonpath={.spec.template.spec.initContainers[0].args}"
    arguments = json.loads(kubectl("get", "deployment", "inference", "-n", "dev", "-o", path))
    found = {}
    for entry in (one.removeprefix("--model=") for one in arguments if one.startswith("--model=")):
        place, _, rest = entry.partition("=")
        name, _, version = place.partition("/")
        uri, _, sha256 = rest.rpartition("@sha256:")
        found[name] = {"version": version, "uri": uri, "sha256": sha256}
    return found
