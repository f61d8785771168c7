"""What an answer says of the road to a service: good, or what is wrong and how to mend it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from release.checks.plan import AtGateway, FromCaller, OfModel, Question
from release.cluster.pod_request import Answer


@dataclass(frozen=True)
class Problem:
    """Why an answer is not good, and what to do about it."""

    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.text} ({self.fix})" if self.fix else self.text


def judge(question: Question, answer: Answer, *, made_up: bool = False) -> Problem | None:
    """None where the answer is good.

    ``made_up`` says that the model's inputs are not its own samples: that it refuses them (400)
    proves the road as well.
    """
    ask = question.ask if isinstance(question, OfModel) else question
    if answer.error:
        return _no_answer(ask, answer.error)
    if problem := _of_the_mesh(question, ask, answer):
        return problem
    good = _model_is_good if isinstance(question, OfModel) else _service_is_good
    if good(question, answer, made_up):
        return None
    return _refused(question, answer)


def _service_is_good(question: Question, answer: Answer, made_up: bool) -> bool:
    assert not isinstance(question, OfModel)
    if question.check.status:
        return answer.status in question.check.status
    return answer.status < (500 if isinstance(question, AtGateway) else 400)


def _model_is_good(question: Question, answer: Answer, made_up: bool) -> bool:
    return answer.status == 200 or (made_up and answer.status == 400)


def _no_answer(ask: AtGateway | FromCaller, error: str) -> Problem:
    low = error.lower()
    if "certificate" in low or "ssl" in low or "tls" in low:
        return Problem(
            f"its certificate is not accepted: {error}",
            "renew it, or mend the Secret that `gateway.tlsSecret` names",
        )
    if isinstance(ask, AtGateway):
        return Problem(
            f"the gateway does not answer: {error}",
            "see that its pods run and its address is right (`platform.gateway.url` in "
            "values/platform, or --gateway)",
        )
    if "not known" in low or "resolution" in low or "not resolve" in low:
        return Problem(
            f"no address of that name: {error}", f"see that the Service {ask.release} is there"
        )
    return Problem(
        f"no connection: {error}",
        f"see that pods of {ask.release} are ready and its NetworkPolicy lets {ask.caller} in "
        f"(`callers` in the values of {ask.release}, `calls` in those of {ask.caller})",
    )


def _of_the_mesh(question: Question, ask: AtGateway | FromCaller, answer: Answer) -> Problem | None:
    """Envoy's own answers: no service made them, whatever their status."""
    body = answer.body.strip()
    at_gateway = isinstance(ask, AtGateway)
    if answer.status == 403 and body == "RBAC: access denied":
        who = "gateway" if isinstance(ask, AtGateway) else ask.caller
        return Problem(
            "the mesh denies it (403, RBAC: access denied)",
            f"add {who} to `callers` in the values of {ask.release}, or give the check a "
            "credential",
        )
    if answer.status == 401 and body.startswith("Jwt"):
        return Problem(
            f"the gateway wants a token (401, {body})",
            f"name one by `check.credential` of {ask.release}, or a public path by `check.path`",
        )
    if answer.status == 404 and not body and "content-type" not in answer.headers:
        return Problem(
            "the gateway has no route for it (404)" if at_gateway else "there is no route (404)",
            "see that VirtualService and Gateway `public` are there, with this host and path",
        )
    if answer.status in (502, 503, 504) and _by_envoy(answer):
        # A proxy passes on what its own sidecar said of the model's server.
        behind = question.server if isinstance(question, OfModel) else ""
        behind = f", or {ask.release} none of {behind}" if behind not in ("", ask.release) else ""
        return Problem(
            f"{'the gateway' if at_gateway else 'the mesh'} reaches no pod of {ask.release}"
            f"{behind} ({answer.status}, {body[:160] or 'no body'})",
            f"see that Service {ask.release} has ready addresses, that its NetworkPolicy lets the "
            "caller in, and that no DestinationRule has other TLS",
        )
    return None


def _by_envoy(answer: Answer) -> bool:
    marks = ("upstream connect error", "no healthy upstream", "upstream request timeout")
    return not answer.body.strip() or answer.body.strip().startswith(marks)


def _refused(question: Question, answer: Answer) -> Problem:
    said = _reason(answer)
    ask = question.ask if isinstance(question, OfModel) else question
    if answer.status in (401, 403):
        return Problem(
            f"it wants a credential ({answer.status}{said})",
            f"name one by `check.credential` in the values of {ask.release}",
        )
    if answer.status == 429:
        return Problem(f"it is overloaded (429{said})", "give it more pods")
    if isinstance(question, OfModel):
        server = question.server or "its server"
        return Problem(
            f"no prediction ({answer.status}{said})",
            f"see the log of {server}, and that PROXY_BACKENDS leads to it",
        )
    expected = ", ".join(map(str, ask.check.status))
    return Problem(
        f"answered {answer.status}{said}",
        f"`check.status` expects {expected}" if expected else f"see the log of {ask.release}",
    )


def _reason(answer: Answer) -> str:
    """What the service said of it: a problem's detail, a protocol's error, or its first line."""
    text = answer.body.strip()
    try:
        document = json.loads(text)
        if isinstance(document, dict):
            text = str(document.get("detail") or document.get("error") or text)
    except ValueError:
        text = text.splitlines()[0] if text and not text.startswith("<") else ""
    return f": {text[:240]}" if text else ""
