"""The API is what its OpenAPI document says: schemathesis asks everything it allows, and more."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import settings
from schemathesis.core.failures import Failure, FailureGroup

from kit.lifecycle.health import Health
from proxy.gateway.api.application import create_api
from proxy.services import Services
from proxy.settings import ProxySettings
from tests.openapi_checks import Allowed, Contract, aim, examples, not_documented
from tests.proxy.conftest import (
    _answer_infer,
    _answer_metadata,
    _answer_ready,
    neighbour,
    proxy_with,
)

pytestmark = pytest.mark.timeout(180)
KEY = "key-of-the-tests"
OTHER = "key-of-another-caller"
SECURED: dict[str, Any] = {
    "auth_required": True,
    "api_keys": {
        name: {"sha256": sha256(key.encode()).hexdigest(), "scopes": ["predict:*", "jobs:*"]}
        for name, key in (("tests", KEY), ("other", OTHER))
    },
}


@pytest.fixture(scope="module")
def base_url(redis_url: str) -> Iterator[str]:
    with serving_in_a_thread(redis_url) as url:
        yield url


@contextlib.contextmanager
def serving_in_a_thread(redis_url: str, **more: Any) -> Iterator[str]:
    """A proxy in a thread of its own: schemathesis asks synchronously."""
    ready, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with neighbour() as model:
            model.on("/v2/models/digits", _answer_metadata)
            model.on("/v2/models/digits/ready", _answer_ready)
            model.on("/v2/models/digits/infer", _answer_infer)
            given: dict[str, Any] = {
                "backends": {"digits": {"type": "http", "url": model.url}},
                "ensembles": {"digits": {"members": [{"model": "digits"}]}},
                "pipelines": {"digits": {"steps": [{"model": "digits"}]}},
                **SECURED,
                "redis_url": redis_url,
                "redis_prefix": f"test-{uuid.uuid4().hex[:8]}",
                "timeout_seconds": 5.0,
                **more,
            }
            async with proxy_with(**given) as proxy:
                found.append(proxy.url)
                ready.set()
                await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield found[0]
    finally:
        stop.set()
        thread.join()


# Jobs' events are streams that last as long as the job does.
SCHEMA = schemathesis.openapi.from_dict(
    create_api(Services(ProxySettings(**SECURED), Health())).openapi()
).exclude(path_regex="/events$")
SCHEMA.config.generation.with_security_parameters = False  # the right key is sent instead
PREDICTIONS = r"^POST /v1/(predict|data|ensembles|pipelines)\b"
ALLOWED = (
    Allowed(
        "positive_data_acceptance",
        PREDICTIONS,
        (400, 415),
        r"send JSON or CSV|the model takes|instances|takes no images|has shape|is unknown|charset"
        r"|UTF-8|is no FP32|the body is not JSON|the CSV has|input '|is missing",
        "What a model takes (its inputs, their datatypes and shapes, pictures or none) stands in "
        "its metadata; the document is the same for every model.",
    ),
    Allowed(
        "positive_data_acceptance",
        r"^POST /v1/predict$",
        (400,),
        r"name the model: ",
        "The model is named by the query or by a header: OpenAPI cannot say that one of two "
        "parameters is needed.",
    ),
    Allowed(
        "positive_data_acceptance",
        r"^POST /v1/jobs/",
        (422,),
        r"urn:slipway:problem:callback-refused",
        "Where callbacks may go is a list of the operator's, and what is a URL is said by a "
        "parser, not by a pattern.",
    ),
    Allowed(
        "positive_data_acceptance",
        r"^POST /v1/jobs/",
        (422,),
        r"urn:slipway:problem:idempotency-key-reused",
        "Whether an `Idempotency-Key` has made another job before is not a matter of one request.",
    ),
    Allowed(
        "negative_data_rejection",
        r"^POST /v1/jobs/",
        (202,),
        r'"state":"queued"',
        "The tool writes any value as CSV, and what it writes is a text.",
        media_type="text/csv",
    ),
    Allowed(
        "allow_header_conformance",
        r" /v1/jobs/\{(model|identity)\}$",
        (405,),
        r"method-not-allowed",
        "`/v1/jobs/{model}` and `/v1/jobs/{identity}` are one path; OpenAPI knows the methods of "
        "each template alone.",
    ),
    Allowed(
        "use_after_free",
        r"/v1/jobs/\{identity\}$",
        (200,),
        r'"state":"cancelled"',
        "DELETE cancels a job; what became of it can be asked until its result's time is over.",
    ),
)
CONTRACT = Contract(ALLOWED)


def ask(case: schemathesis.Case, base_url: str) -> None:
    """Ask for a model that is there."""
    aim(case, "digits", "model", "name")
    CONTRACT.ask(case, base_url, {"X-API-Key": KEY})


@SCHEMA.parametrize()
@examples(6)
def test_every_answer_is_what_the_document_says(case: schemathesis.Case, base_url: str) -> None:
    ask(case, base_url)


@pytest.mark.conformance
@SCHEMA.parametrize()
@examples(400)
def test_every_answer_is_what_the_document_says_at_length(
    case: schemathesis.Case, base_url: str
) -> None:
    ask(case, base_url)


class Scenario(SCHEMA.as_state_machine()):  # type: ignore[misc]
    """Operations one after another: what one answers (a job's id) is asked for by the next."""

    base_url = ""

    def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
        """What every call is made with."""
        aim(case, "digits", "model", "name")
        return {"base_url": self.base_url, "headers": {"X-API-Key": KEY}, "timeout": 30}

    def validate_response(
        self, response: Any, case: schemathesis.Case, additional_checks: Any = None, **_: Any
    ) -> None:
        """Every check, those of things that were made or deleted before too."""
        CONTRACT.hold(case, response, headers={"X-API-Key": KEY}, recorder=self.recorder)


def test_what_was_made_is_there_and_what_was_deleted_is_not(base_url: str) -> None:
    Scenario.base_url = base_url
    Scenario.run(settings=settings(examples(10), stateful_step_count=6))


def test_an_operation_that_needs_no_key_would_be_found(base_url: str) -> None:
    """What `ignored_auth` proves: the document says that a key is needed, and one is not."""
    operation = SCHEMA["/v1/models"]["GET"]
    CONTRACT.ask(operation.Case(), base_url, {"X-API-Key": KEY})
    with contextlib.ExitStack() as stack:
        unsecured = stack.enter_context(serving_in_a_thread("", auth_required=False))
        with pytest.raises((Failure, FailureGroup), match=r"(?i)auth"):
            CONTRACT.ask(operation.Case(), unsecured, {"X-API-Key": KEY})


def test_a_job_of_another_caller_is_not_there_in_any_operation(base_url: str) -> None:
    """What `object_level_authorization` would have to prove, for each operation of a job."""
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    made = requests.post(f"{base_url}/v1/jobs/digits", data="[[1]]", headers=headers, timeout=30)
    assert made.status_code == 202, made.text
    whole = create_api(Services(ProxySettings(**SECURED), Health())).openapi()["paths"]
    asked = 0
    for path in (path for path in whole if "{identity}" in path):
        for method in whole[path]:
            said = []
            for identity in (made.json()["id"], "0" * 32):
                url = base_url + path.replace("{identity}", identity)
                answer = requests.request(method, url, headers={"X-API-Key": OTHER}, timeout=30)
                said.append((answer.status_code, answer.json()["type"]))
            assert said == [(404, "urn:slipway:problem:unknown-job")] * 2, (method, path)
            asked += 1
    assert asked == 3
    still = requests.get(f"{base_url}{made.headers['location']}", headers=headers, timeout=30)
    assert still.json()["state"] == "queued", "and nobody cancelled it"


def test_the_operations_are_all_there() -> None:
    assert len([*SCHEMA.get_all_operations()]) == 10


def test_the_exceptions_are_documented() -> None:
    assert not_documented("proxy", ALLOWED) == []
