"""Asks a plan's questions side by side: at the gateway over HTTP, from callers by a command in
one of their pods."""

from __future__ import annotations

import base64
import functools
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from kit.http.probe_header import PROBE, mark
from release.checks import samples
from release.checks.answers import Problem, judge
from release.checks.plan import AtGateway, FromCaller, OfModel, Plan, Question
from release.cluster import pod_request
from release.cluster.client import Cluster, ForbiddenError, Object
from release.cluster.pod_request import SECONDS, Answer
from release.errors import NotFoundError, ReleaseError, UnreachableError

PROBE_SECRET = "probe-credential"  # noqa: S105 - its name
PROBE_KEY = "SLIPWAY_PROBE_KEY"
SIDE_BY_SIDE = 16
INSTANCE = "app.kubernetes.io/instance"


@dataclass(frozen=True)
class Result:
    """A question and what is wrong with its answer, if anything.

    ``asked`` is False where nobody could ask; ``problem`` then says why.
    """

    question: Question
    problem: Problem | None
    asked: bool = True


@dataclass
class Asker:
    """Asks about one environment; ``pods`` are those of now."""

    cluster: Cluster
    plan: Plan
    pods: Sequence[Object]
    key: str
    """Of the verifier's mark; empty sends none."""

    def ask(self) -> list[Result]:
        """Every question's result, in the plan's order.

        Raises UnreachableError where the API server is away.
        """
        if not self.plan.questions:
            return []
        with ThreadPoolExecutor(min(SIDE_BY_SIDE, len(self.plan.questions))) as pool:
            return list(pool.map(self._result, self.plan.questions))

    def _result(self, question: Question) -> Result:
        try:
            if isinstance(question, OfModel):
                return self._model(question)
            answer = self._request(question, "GET", question.path)
            return Result(question, judge(question, answer))
        except UnreachableError:
            raise
        except ForbiddenError as error:
            fix = "allow this identity `create` on pods/exec and `get` on secrets there, or set "
            fix += "`check: {enabled: false}` for the service"
            return Result(question, Problem(f"it cannot be asked: {error.message}", fix))
        except NotFoundError as error:
            return Result(question, Problem(error.message, error.fix), asked=bool(error.fix))
        except ReleaseError as error:
            return Result(question, Problem(f"it cannot be asked: {error.message}", error.fix))

    def _model(self, question: OfModel) -> Result:
        ask = question.ask
        bodies = self._samples(question)
        invented = not bodies
        if invented:
            answer = self._request(ask, "GET", ask.path.removesuffix("/infer"))
            problem = judge(question, answer)
            if problem is not None:
                return Result(question, problem)
            try:
                bodies = [samples.made_up(json.loads(answer.body))]
            except (ValueError, LookupError, TypeError, AttributeError):
                fix = f"see what answers {ask.path.removesuffix('/infer')}; `samples` in the "
                fix += "model's model.json are asked without them"
                text = f"its metadata are not the protocol's: {answer.body[:160]!r}"
                return Result(question, Problem(text, fix))
        for body in bodies:
            answer = self._request(ask, "POST", ask.path, body)
            if problem := judge(question, answer, made_up=invented):
                return Result(question, problem)
        return Result(question, None)

    def _samples(self, question: OfModel) -> list[str]:
        """The requests that a model's own manifest holds, read where it is served."""
        pod = self._ready_pod(question.server)
        if pod is None:
            return []
        # One file for each version on the server; every one of its models is read.
        command = ["sh", "-c", "cat ${INFERENCE_MODEL_REPOSITORY:-/models}/*/*/model.json"]
        try:
            said = self.cluster.run_in_pod(
                self.plan.environment, pod["metadata"]["name"], question.server, command
            )
        except NotFoundError:
            return []
        return samples.of_model(said, question.manifest)

    def _request(
        self, ask: AtGateway | FromCaller, method: str, path: str, body: str = ""
    ) -> Answer:
        headers = {"user-agent": "slipway-release-verify", **self._credential(ask.check.credential)}
        if body:
            headers["content-type"] = "application/json"
        if self.key:
            headers[PROBE.decode()] = mark(self.key, time.time())
        if isinstance(ask, AtGateway):
            base = self.plan.gateway.replace("{host}", ask.host)
            return at_gateway(base, ask.host, method, path, body=body, headers=headers)
        return self._from_pod(ask, method, path, body, headers)

    def _from_pod(
        self, ask: FromCaller, method: str, path: str, body: str, headers: Mapping[str, str]
    ) -> Answer:
        pod = self._ready_pod(ask.caller)
        if pod is None:
            raise NotFoundError(f"no pod of {ask.caller} is ready to ask it from")
        request = pod_request.Request(ask.release, ask.port, path, method, headers, body)
        name = pod["metadata"]["name"]
        try:
            return pod_request.ask(self.cluster, self.plan.environment, name, ask.caller, request)
        except NotFoundError as error:
            raise NotFoundError(
                f"{error.message}; give it one of them, or set `check: {{enabled: false}}` for "
                f"{ask.release}. That its Service leads to ready pods was looked at"
            ) from error

    def _ready_pod(self, release: str) -> Object | None:
        for pod in self.pods:
            if pod["metadata"].get("labels", {}).get(INSTANCE) != release:
                continue
            conditions = pod.get("status", {}).get("conditions", [])
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            if ready and not pod["metadata"].get("deletionTimestamp"):
                return pod
        return None

    def _credential(self, named: str) -> dict[str, str]:
        """The header of a check's ``secret/key``."""
        if not named:
            return {}
        secret, _, key = named.partition("/")
        value = secret_value(self.cluster, self.plan.environment, secret, key)
        if value is None:
            raise NotFoundError(
                f"the Secret {secret} has no key {key} (`check.credential`)",
                fix=f"create it in {self.plan.environment}, or correct `check.credential`",
            )
        name, colon, rest = value.strip().partition(": ")
        return {name: rest} if colon else {"x-api-key": value.strip()}


def at_gateway(
    base: str, host: str, method: str, path: str, *, body: str, headers: Mapping[str, str]
) -> Answer:
    """One request to a host at the gateway that answers at ``base``.

    Names below .localhost are this machine's (RFC 6761).
    """
    url = urlsplit(base)
    address = url.hostname or host
    if address == "localhost" or address.endswith(".localhost"):
        address = "127.0.0.1"
    port = f":{url.port}" if url.port else ""
    sent = {**headers, "host": host + port}
    try:
        with httpx.Client(timeout=SECONDS, trust_env=True, verify=_context()) as client:
            answer = client.request(
                method,
                f"{url.scheme}://{address}{port}{url.path.rstrip('/')}{path}",
                headers=sent,
                content=body or None,
                extensions={"sni_hostname": host},
            )
        return Answer(
            answer.status_code, answer.text, {k.lower(): v for k, v in answer.headers.items()}
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(error=str(error) or type(error).__name__)


@functools.cache
def _context() -> ssl.SSLContext:
    """The machine's authorities, and those of SSL_CERT_FILE."""
    return ssl.create_default_context()


def secret_value(cluster: Cluster, namespace: str, name: str, key: str) -> str | None:
    """A key of a Secret; None where there is no such Secret or key."""
    try:
        found = cluster.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
    except NotFoundError:
        return None
    data = (found.get("data") or {}).get(key)
    return base64.b64decode(data).decode() if data else None
