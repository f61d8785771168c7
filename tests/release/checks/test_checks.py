"""release.checks: services are asked as users and callers ask, and a bad answer names its cause."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from kit.http.probe_header import is_believed
from release.checks import endpoints, plan, samples
from release.checks.answers import judge
from release.checks.ask import PROBE_KEY, Asker
from release.checks.plan import AtGateway, Check, FromCaller, OfModel
from release.cluster import pod_request
from release.cluster.pod_request import Answer
from release.errors import NotFoundError, ReleaseError
from release.verification import watch
from tests.release.conftest import World, application_set_of, digest, row
from tests.release.kube import APPLICATIONS, Kubernetes
from tests.release.verification.test_verification import (
    application,
    everything_runs,
    kube,
    labels,
    verify,
)
from tests.waits import until

__all__ = ["kube"]

SERVICES = ("proxy", "inference", "worker", "unzip", "page")
BACKENDS = {
    "digits": {"type": "http", "url": "http://inference:8080"},
    "nine": {"type": "http", "url": "http://inference:8080", "model": "digits"},
    "far": {"type": "sagemaker", "endpoint": "far"},
}
ROUTING: dict[str, Any] = {
    "hosts": ["dev.example.localhost", "*.example.org"],
    "services": {
        "proxy": {"paths": ["/"]},
        "page": {"paths": ["/page", "/other"]},
        "inference": {},
        "gone": {"paths": ["/gone"]},
    },
}


@dataclass
class Files:
    """A commit's files, as `tree` reads them."""

    content: dict[str, Any]
    commit: str = "0" * 40

    def read(self, path: str) -> bytes | None:
        found = self.content.get(path)
        return None if found is None else yaml.safe_dump(found).encode()

    def files(self, folder: str) -> list[str]:
        return sorted(path for path in self.content if path.startswith(folder))


def image(name: str) -> dict[str, Any]:
    return {
        "image": {
            "repository": f"registry.test/{name}", "tag": "1", "digest": digest(name),
            "revision": "0" * 40,
        }
    }  # fmt: skip


def files(**more: Any) -> Files:
    """An environment of five services; ``more`` are values by release."""
    rows = [row("routing", "routing"), *map(row, SERVICES)]
    content: dict[str, Any] = {
        "argocd/environments/dev.yaml": yaml.safe_load(application_set_of("dev", *rows)),
        "values/platform/one-machine.yaml": {"platform": {"gateway": {"url": "http://{host}:1"}}},
        "values/services/proxy/routes.yaml": ROUTING,
        "values/services/proxy/service.yaml": {
            "env": {"PROXY_BACKENDS": json.dumps(BACKENDS)},
            "callers": {"gateway": {}, "worker": None, "inference": False},
        },
        "values/services/page/service.yaml": {"callers": {"gateway": True}},
        "values/services/inference/service.yaml": {
            "callers": {"proxy": {}, "worker": {"paths": ["/v2*"]}, "unzip": {}}
        },
        "values/services/worker/service.yaml": {"service": {"enabled": False}},
        "values/services/unzip/service.yaml": {"kind": "CronJob"},
        "values/dev/inference.models.yaml": {
            "models": {"digits": {"version": "1", "uri": "s3://m/digits/1", "sha256": "0" * 64}}
        },
    }
    for name in SERVICES:
        content[f"values/dev/{name}.image.yaml"] = image(name)
    for name, values in more.items():
        content[f"values/dev/{name}.yaml"] = values
    return Files(content)


def asked(found: plan.Plan) -> list[str]:
    return [str(one) for one in found.questions]


HOST = "dev.example.localhost"


def test_public_services_are_asked_at_the_gateway_and_others_by_their_callers() -> None:
    found = plan.read(files(), "dev")
    assert asked(found) == [
        f"{HOST}/",
        "http://inference:8080/readyz as proxy",
        "http://inference:8080/v2 as worker",  # a caller that may ask this alone
        f"{HOST}/page",
        f"model digits at {HOST}/v2/models/digits/infer",
        f"model nine at {HOST}/v2/models/nine/infer",
    ]
    assert found.gateway == "http://{host}:1"
    assert found.addresses == ("proxy", "inference", "page")
    assert found.notes == ("inference is not asked as unzip: that has pods only at times.",)


def test_models_that_a_proxy_looks_up_are_asked_under_the_names_in_git() -> None:
    """Otherwise a proxy that lists no models would have none of them asked for."""
    backends = {"inference": {"type": "http", "url": "http://inference:8080", "models": "discover"}}
    given = files(proxy={"env": {"PROXY_BACKENDS": json.dumps(backends)}})
    models = given.content["values/dev/inference.models.yaml"]["models"]
    models["iris"] = models["digits"]
    found = asked(plan.read(given, "dev"))
    assert [one for one in found if one.startswith("model")] == [
        f"model digits at {HOST}/v2/models/digits/infer",
        f"model iris at {HOST}/v2/models/iris/infer",
    ]


def test_a_service_s_own_check_counts() -> None:
    own = {"path": "/page/health?deep=1", "status": [200, 401], "credential": "keys/page"}
    found = plan.read(files(page={"check": own}, proxy={"check": {"enabled": False}}), "dev")
    (page,) = (one for one in found.questions if one.release == "page")
    assert page == AtGateway(
        "page",
        HOST,
        "/page/health?deep=1",
        Check(True, "/page/health?deep=1", (200, 401), "keys/page"),
    )
    assert "proxy is not asked: its check is not enabled." in found.notes
    # Nobody serves the model at the gateway then: its server's callers ask it.
    assert "model digits at http://inference:8080/v2/models/digits/infer as proxy" in asked(found)


def test_some_services_and_another_address_may_be_named() -> None:
    found = plan.read(files(), "dev", ["page"], "https://{host}:8443")
    assert (asked(found), found.addresses) == ([f"{HOST}/page"], ("page",))
    assert found.gateway == "https://{host}:8443"


def test_without_hosts_everything_is_asked_inside() -> None:
    found = plan.read(files(routing={"hosts": []}), "dev")
    assert all(isinstance(one, FromCaller | OfModel) for one in found.questions)
    assert "page is not asked: no release with pods may call it." in found.notes


def test_what_is_not_deployed_is_not_asked() -> None:
    given = files(inference={"replicas": 0})
    del given.content["values/dev/page.image.yaml"]
    found = plan.read(given, "dev")
    assert {one.release for one in found.questions} == {"proxy"}
    assert found.addresses == ("proxy",)


PAGE = AtGateway("page", HOST, "/page", Check())
INSIDE = FromCaller("inference", "worker", 8080, "/readyz", Check())
MODEL = OfModel("proxy", "digits", "digits", "inference", AtGateway("proxy", HOST, "/v2", Check()))
HTML = {"content-type": "text/html"}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (PAGE, Answer(200)),
        (PAGE, Answer(302, headers=HTML)),
        (PAGE, Answer(404, "no such page", HTML)),
        (PAGE, Answer(401, '{"detail": "who are you?"}')),
        (INSIDE, Answer(200)),
        (MODEL, Answer(200, "{}")),
        (AtGateway("page", HOST, "/", Check(status=(503,))), Answer(503, "closed today", HTML)),
    ],
)
def test_good_answers(question: plan.Question, answer: Answer) -> None:
    assert judge(question, answer) is None


@pytest.mark.parametrize(
    ("question", "answer", "cause", "fix"),
    [
        (PAGE, Answer(404), "no route", "VirtualService"),
        (PAGE, Answer(503, "no healthy upstream"), "reaches no pod of page", "Service page"),
        (PAGE, Answer(503), "reaches no pod of page", "Service page"),
        (PAGE, Answer(503, '{"detail": "the disk is full"}', HTML), "503: the disk is full", "log"),
        (
            PAGE,
            Answer(403, "RBAC: access denied"),
            "mesh denies",
            "add gateway to `callers` in the values of page",
        ),
        (PAGE, Answer(401, "Jwt is missing"), "wants a token", "check.credential"),
        (PAGE, Answer(error="[Errno 111] Connection refused"), "gateway does not", "gateway.url"),
        (
            PAGE,
            Answer(error="[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"),
            "certificate",
            "tlsSecret",
        ),
        (INSIDE, Answer(403, "RBAC: access denied"), "mesh denies", "add worker"),
        (INSIDE, Answer(404, "not here", HTML), "answered 404", "log"),
        (INSIDE, Answer(error="timed out"), "no connection", "NetworkPolicy lets worker in"),
        (
            INSIDE,
            Answer(error="[Errno -2] Name or service not known"),
            "no address",
            "Service inference",
        ),
        (MODEL, Answer(503, '{"error": "backend down"}', HTML), "backend down", "PROXY_BACKENDS"),
        (MODEL, Answer(503, "no healthy upstream"), "or proxy none of inference (503", "TLS"),
        (MODEL, Answer(400, '{"error": "shape"}', HTML), "no prediction (400: shape)", "inference"),
        (MODEL, Answer(404, '{"error": "unknown model"}', HTML), "unknown model", "inference"),
        (MODEL, Answer(401, '{"detail": "key?"}', HTML), "wants a credential", "check.credential"),
        (MODEL, Answer(429, "busy", HTML), "overloaded", "more pods"),
        (
            AtGateway("page", HOST, "/", Check(status=(200,))),
            Answer(204),
            "answered 204",
            "`check.status` expects 200",
        ),
    ],
)
def test_bad_answers_name_cause_and_fix(
    question: plan.Question, answer: Answer, cause: str, fix: str
) -> None:
    problem = judge(question, answer)
    assert problem is not None
    assert cause in problem.text
    assert fix in problem.fix


def test_inputs_that_are_made_up_may_be_refused() -> None:
    assert judge(MODEL, Answer(400, '{"error": "rule"}', HTML), made_up=True) is None
    assert judge(MODEL, Answer(500, "", HTML), made_up=True) is not None


def test_samples_are_the_model_s_own_or_made_up_by_its_metadata() -> None:
    one = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
    texts = "\n".join(
        json.dumps(each)
        for each in (
            {"name": "other", "samples": [{"inputs": []}]},
            {"name": "m", "samples": [one]},
        )
    )
    assert [json.loads(body) for body in samples.of_model(texts, "m")] == [one]
    assert samples.of_model("no json", "m") == []
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "t", "datatype": "BYTES", "shape": [-1]},
        {"name": "b", "datatype": "BOOL", "shape": [2]},
    ]
    assert json.loads(samples.made_up({"inputs": inputs}))["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]},
        {"name": "t", "datatype": "BYTES", "shape": [1], "data": [""]},
        {"name": "b", "datatype": "BOOL", "shape": [2], "data": [False, False]},
    ]


def slices(service: str, *ready: bool) -> list[dict[str, Any]]:
    return [
        {
            "metadata": {
                "name": f"{service}-{n}",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [f"10.1.0.{n + 1}"], "conditions": {"ready": one}}],
        }
        for n, one in enumerate(ready or (True,))
    ]


def test_a_service_leads_to_ready_addresses() -> None:
    assert endpoints.ready_addresses("page", slices("page", True, False, True)) == 2
    assert endpoints.problem("page", slices("page")) is None
    absent, none_ready = (
        endpoints.problem("page", []),
        endpoints.problem("page", slices("page", False)),
    )
    assert absent is not None and "no Service page" in absent.text
    assert none_ready is not None and "no ready pod" in none_ready.text


@dataclass
class Gateway:
    """An HTTP server in place of gateway and services."""

    port: int = 0
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    seen: list[tuple[str, Mapping[str, str], str]] = field(default_factory=list)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.seen.append((self.path, headers, self.rfile.read(length).decode()))
            status, text = made.answers.get(self.path, (404, ""))
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@dataclass
class Pods:
    """A cluster whose pods are this machine: a command in one of them runs here."""

    manifests: str = ""
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    programs: Sequence[str] = ("python3",)

    def run_in_pod(self, _: str, pod: str, __: str, command: Sequence[str]) -> str:
        if command[0] == "sh":
            return self.manifests
        assert pod == "worker-1"
        if command[0] not in self.programs:
            raise NotFoundError(f"{command[0]} in {pod}: there is no such program or file")
        program = sys.executable if command[0] == "python3" else command[0]
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ReleaseError(f"{command[0]} failed: {done.stderr}")
        return done.stdout

    def request(self, _: str, path: str) -> dict[str, Any]:
        name = path.rpartition("/")[2]
        if name not in self.secrets:
            raise NotFoundError("no such Secret")
        return {
            "data": {
                k: base64.b64encode(v.encode()).decode() for k, v in self.secrets[name].items()
            }
        }


def pods(*releases: str) -> list[dict[str, Any]]:
    ready = [{"type": "Ready", "status": "True"}]
    return [
        {"metadata": {"name": f"{name}-1", "labels": labels(name)}, "status": {"conditions": ready}}
        for name in releases
    ]


def ask(
    gateway: Gateway, cluster: Pods, *questions: plan.Question, running: Any = None
) -> list[Any]:
    made = plan.Plan("dev", f"http://{{host}}:{gateway.port}", questions, ())
    present = pods("worker", "inference") if running is None else running
    return Asker(cluster, made, present, "key").ask()  # type: ignore[arg-type]


def test_the_gateway_is_asked_as_its_host_with_mark_and_credential(gateway: Gateway) -> None:
    gateway.answers["/page"] = (200, "hello")
    cluster = Pods(secrets={"keys": {"header": "Authorization: Bearer abc", "key": "k1"}})
    questions = [
        AtGateway("page", HOST, "/page", Check(credential=f"keys/{name}"))
        for name in ("header", "key")
    ]
    assert [one.problem for one in ask(gateway, cluster, *questions)] == [None, None]
    sent = [headers for _, headers, _ in gateway.seen]
    assert {headers["host"] for headers in sent} == {f"{HOST}:{gateway.port}"}
    assert all(is_believed(h["x-slipway-probe"].encode(), "key", time.time()) for h in sent)
    assert {headers.get("authorization") for headers in sent} == {None, "Bearer abc"}
    assert {headers.get("x-api-key") for headers in sent} == {None, "k1"}


def test_a_credential_that_is_not_there_is_named(gateway: Gateway) -> None:
    (found,) = ask(gateway, Pods(), AtGateway("page", HOST, "/page", Check(credential="keys/page")))
    assert found.asked
    assert "the Secret keys has no key page" in str(found.problem)


def test_a_caller_s_pod_asks(gateway: Gateway) -> None:
    gateway.answers["/readyz"] = (200, "ready")
    good = FromCaller("127.0.0.1", "worker", gateway.port, "/readyz", Check())
    bad = FromCaller("127.0.0.1", "worker", 1, "/readyz", Check())
    found = ask(gateway, Pods(), good, bad)
    assert found[0].problem is None
    assert "no connection" in found[1].problem.text
    assert is_believed(gateway.seen[0][1]["x-slipway-probe"].encode(), "key", time.time())


def test_a_caller_s_pod_without_python_asks_with_curl(gateway: Gateway) -> None:
    gateway.answers["/v2/models/m/infer?a=[1]"] = (200, "yes\n\nindeed")
    gateway.answers["/readyz"] = (503, '{"detail": "no model"}')
    request = pod_request.Request(
        "127.0.0.1", gateway.port, "/v2/models/m/infer?a=[1]", "POST", {"x-a": "b: c"}, "{}" * 2000
    )
    cluster = Pods(programs=("curl",))
    answer = pod_request.ask(cluster, "dev", "worker-1", "worker", request)  # type: ignore[arg-type]
    assert (answer.status, answer.body) == (200, "yes\n\nindeed")
    assert answer.headers["content-length"] == "11"
    _, headers, body = gateway.seen[0]
    assert (headers["x-a"], body) == ("b: c", "{}" * 2000)
    bad = FromCaller("127.0.0.1", "worker", gateway.port, "/readyz", Check())
    nobody = FromCaller("127.0.0.1", "worker", 1, "/readyz", Check())
    found = ask(gateway, cluster, bad, nobody)
    assert "503: no model" in found[0].problem.text
    assert "no connection" in found[1].problem.text
    assert is_believed(gateway.seen[1][1]["x-slipway-probe"].encode(), "key", time.time())


def test_a_caller_without_a_program_to_ask_with_is_said_with_a_fix(gateway: Gateway) -> None:
    """Found: the warning said no more than that there is no such program or file."""
    (found,) = ask(gateway, Pods(programs=()), INSIDE)
    assert not found.asked
    assert "the image of worker has neither python3 nor curl to ask with" in str(found.problem)
    assert "set `check: {enabled: false}` for inference" in str(found.problem)


def test_a_caller_without_a_ready_pod_is_said_not_to_have_asked(gateway: Gateway) -> None:
    (found,) = ask(gateway, Pods(), INSIDE, running=[])
    assert not found.asked
    assert "no pod of worker is ready" in str(found.problem)


def test_a_model_is_asked_with_its_samples(gateway: Gateway) -> None:
    sample = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [7]}]}
    cluster = Pods(manifests=json.dumps({"name": "digits", "samples": [sample, sample]}))
    question = OfModel(
        "proxy",
        "nine",
        "digits",
        "inference",
        AtGateway("proxy", HOST, "/v2/models/nine/infer", Check()),
    )
    gateway.answers["/v2/models/nine/infer"] = (200, "{}")
    assert ask(gateway, cluster, question)[0].problem is None
    assert [json.loads(body) for _, _, body in gateway.seen] == [sample, sample]
    gateway.answers["/v2/models/nine/infer"] = (400, '{"error": "x has 2 dimensions"}')
    assert "x has 2 dimensions" in str(ask(gateway, cluster, question)[0].problem)


def test_a_model_without_samples_is_asked_with_made_up_inputs(gateway: Gateway) -> None:
    question = OfModel(
        "proxy", "nine", "digits", "", AtGateway("proxy", HOST, "/v2/models/nine/infer", Check())
    )
    metadata = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
    gateway.answers["/v2/models/nine"] = (200, json.dumps(metadata))
    gateway.answers["/v2/models/nine/infer"] = (400, '{"error": "refused"}')
    assert ask(gateway, Pods(), question)[0].problem is None
    gateway.answers["/v2/models/nine"] = (503, '{"error": "inferenc does not answer"}')
    assert "inferenc does not answer" in str(ask(gateway, Pods(), question)[0].problem)


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '"x"', '{"inputs": [{}]}', '{"inputs": [{"shape": ["n"]}]}', ""]
)
def test_metadata_that_are_none_are_a_finding_and_no_traceback(gateway: Gateway, body: str) -> None:
    question = OfModel(
        "proxy", "nine", "digits", "", AtGateway("proxy", HOST, "/v2/models/nine/infer", Check())
    )
    gateway.answers["/v2/models/nine"] = (200, body)
    assert "are not the protocol's" in str(ask(gateway, Pods(), question)[0].problem)


def deployed_behind(gateway: Gateway, kube: Kubernetes, world: World) -> None:
    """dev's proxy is deployed, public, and marked as the verifier wants."""
    address = f"http://{{host}}:{gateway.port}"
    platform = {"gateway": {"url": address}}
    routes = {"hosts": [HOST], "platform": platform, "services": {"proxy": {"paths": ["/"]}}}
    rows = [row("routing", "routing"), row("proxy"), row("worker")]
    world.push(
        {
            "argocd/environments/dev.yaml": application_set_of("dev", *rows),
            "values/dev/routing.yaml": yaml.safe_dump(routes),
        },
    )
    world.deploy("1", world.source(), "proxy")
    everything_runs(kube, world, "1", "proxy", "worker")
    kube.put(APPLICATIONS, application("routing", world.head()), subresource=False)


def test_a_host_that_a_commit_takes_out_is_said() -> None:
    """Found: with one letter of the host wrong everything was green, and its users had 404."""
    before = files()
    after = files(routing={"hosts": ["dve.example.localhost", "*.example.org"]})
    assert plan.hosts_taken_out(before, after, "dev") == [HOST]
    assert plan.hosts_taken_out(before, before, "dev") == []
    assert plan.hosts_taken_out(Files({}), after, "dev") == []


SLICES = "/apis/discovery.k8s.io/v1/namespaces/dev/endpointslices"


@pytest.fixture
def no_slices(kube: Kubernetes) -> Iterator[None]:
    kube.client.delete(SLICES)
    yield
    kube.client.delete(SLICES)


@pytest.mark.usefixtures("no_slices")
def test_a_deployment_whose_users_get_errors_has_failed(
    gateway: Gateway, kube: Kubernetes, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ANSWER_SECONDS", 0.0)
    deployed_behind(gateway, kube, world)
    gateway.answers["/"] = (200, "hello")
    answer = verify(world)
    assert answer.code == 6, answer.out
    assert "there is no Service proxy" in answer.json["message"]
    for one in slices("proxy"):
        kube.put(SLICES, one)
    answer = verify(world)
    assert answer.code == 0, answer.out
    assert f"no Secret probe-credential with {PROBE_KEY} in dev" in answer.err
    gateway.answers["/"] = (503, "no healthy upstream")
    answer = verify(world)
    assert answer.code == 6, answer.out
    assert f"check: {HOST}/: the gateway reaches no pod of proxy" in answer.json["message"]
    assert verify(world, "--no-check").code == 0


@pytest.mark.usefixtures("no_slices")
def test_an_answer_that_comes_a_little_later_is_waited_for(
    gateway: Gateway, kube: Kubernetes, world: World
) -> None:
    deployed_behind(gateway, kube, world)
    for one in slices("proxy"):
        kube.put(SLICES, one)
    gateway.answers["/"] = (503, "no healthy upstream")
    found: list[Any] = []
    running = threading.Thread(target=lambda: found.append(verify(world)))
    running.start()
    until(lambda: len(gateway.seen) >= 2, "two questions")
    gateway.answers["/"] = (200, "hello")
    running.join()
    assert found[0].code == 0, found[0].out
