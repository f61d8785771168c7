"""Who may not is refused by the cluster's real Envoys, and the refusal stands in an access log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.charts.callers import (
    plain_text_status,
    pod_elsewhere,
    status_from,
    status_from_pod,
)
from tests.charts.scratch import NAMESPACE, Scratch, access_log, eventually, kubectl
from tests.charts.tokens import Issuer, token

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Line = dict[str, Any]


def logged(
    namespace: str, selector: str, since: datetime, wanted: Callable[[Line], bool]
) -> list[Line]:
    """The lines of these pods' Envoys that are as wanted, once there are some."""

    def lines() -> list[Line]:
        found = access_log(namespace, selector, "istio-proxy", since)
        return [line for line in found if wanted(line)]

    return eventually(lines, bool, 20)


def inference(release: str = "inference") -> str:
    return f"app.kubernetes.io/instance={release}"


def test_plain_text_is_refused_and_logged(scratch: Scratch) -> None:
    """A process without a certificate, which STRICT mutual TLS does not answer."""
    begin = datetime.now(UTC)
    assert plain_text_status() == "refused"
    logged(
        NAMESPACE, inference(), begin, lambda line: "filter_chain" in line["response_code_details"]
    )


def test_an_unlisted_caller_is_refused_and_logged(scratch: Scratch) -> None:
    """The challenger's account is verified, and is no caller of inference."""
    begin = datetime.now(UTC)
    path = "/v2/models/digits?unlisted"
    url = f"http://inference:8080{path}"
    assert status_from(NAMESPACE, "inference-challenger", url) == "403"
    (line,) = logged(NAMESPACE, inference(), begin, lambda line: line["path"] == path)
    assert line["response_code"] == 403
    assert line["response_code_details"].startswith("rbac_access_denied"), line


@pytest.fixture(scope="module")
def foreigner(scratch: Scratch) -> Iterator[str]:
    """A pod of another namespace of the mesh, whose sidecar would let it call anybody."""
    waits = ("python3", "-c", "import time; time.sleep(3600)")
    with pod_elsewhere("foreigner", waits, mesh=True) as namespace:
        yield namespace


def test_a_call_from_another_environment_is_refused_and_logged(
    scratch: Scratch, foreigner: str
) -> None:
    begin = datetime.now(UTC)
    path = "/v2/models/digits?foreign"
    url = f"http://inference.{NAMESPACE}:8080{path}"
    # It gets as far as inference's own sidecar.
    assert status_from_pod(foreigner, "foreigner", "foreigner", url) == "403"
    (line,) = logged(NAMESPACE, inference(), begin, lambda line: line["path"] == path)
    assert line["response_code_details"].startswith("rbac_access_denied"), line


def test_an_environment_does_not_know_another_and_logs_who_tried(scratch: Scratch) -> None:
    """What an environment's own sidecar refuses: REGISTRY_ONLY, and its Sidecar's hosts."""
    begin = datetime.now(UTC)
    path = "/v2/models/digits?elsewhere"
    url = f"http://inference.{NAMESPACE}:8080{path}"
    assert status_from("dev", "proxy", url) == "502"
    (line,) = logged("dev", inference("proxy"), begin, lambda line: line["path"] == path)
    assert line["upstream_cluster"] in ("BlackHoleCluster", None), line
    assert line["response_code"] == 502


@pytest.mark.parametrize(
    ("claims", "signed", "status", "reason"),
    [
        (None, True, 403, "rbac_access_denied"),
        ({}, False, 401, "jwt_authn_access_denied"),
        ({"exp": 1}, True, 401, "jwt_authn_access_denied"),
        ({"aud": "others"}, True, 403, "jwt_authn_access_denied"),
    ],
    ids=["missing", "forged", "expired", "for others"],
)
def test_a_token_is_refused_and_logged(
    scratch: Scratch, claims: dict[str, Any] | None, signed: bool, status: int, reason: str
) -> None:
    issuer = Issuer(NAMESPACE)
    scratch.routes(jwt=issuer.values)
    try:
        good = {"Authorization": f"Bearer {token(issuer.key, issuer.claims)}"}
        # Each pod's sidecar learns of it by itself.
        eventually(lambda: scratch.count(20, by="status"), lambda seen: seen == {403: 20})
        eventually(
            lambda: scratch.count(20, by="status", headers=good), lambda seen: seen == {200: 20}
        )
        key = issuer.key if signed else rsa.generate_private_key(65537, 2048)
        headers = {}
        if claims is not None:
            headers = {"Authorization": f"Bearer {token(key, {**issuer.claims, **claims})}"}
        begin = datetime.now(UTC)
        path = f"/v2/models/digits/infer?at={time.time_ns()}"
        assert scratch.ask(path, headers=headers).status == status
        (line,) = logged(NAMESPACE, inference(), begin, lambda line: line["path"] == path)
        assert line["response_code"] == status
        assert line["response_code_details"].startswith(reason), line
    finally:
        scratch.routes()
        eventually(lambda: scratch.ask().status, lambda seen: seen == 200)


def test_what_another_environment_says_of_tokens_is_of_no_account_here(scratch: Scratch) -> None:
    """Found: dev named this environment's issuer with a key of its own, and its tokens passed."""
    issuer, forger = Issuer(NAMESPACE), Issuer(NAMESPACE)
    other = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": f"{NAMESPACE}-other", "namespace": "dev"},
        "spec": {
            "jwtRules": [
                {"issuer": issuer.values["issuer"], "jwks": forger.values["jwks"],
                 "forwardOriginalToken": True}
            ]
        },
    }  # fmt: skip
    forged = {"Authorization": f"Bearer {token(forger.key, issuer.claims)}"}
    good = {"Authorization": f"Bearer {token(issuer.key, issuer.claims)}"}
    scratch.routes(jwt=issuer.values)
    try:
        kubectl("apply", "--server-side", "-f", "-", text=json.dumps(other))
        eventually(
            lambda: scratch.count(20, by="status", headers=forged), lambda seen: seen == {401: 20}
        )
        assert scratch.ask(headers=good).status == 200
    finally:
        kubectl(
            *("delete", "requestauthentication", f"{NAMESPACE}-other", "-n", "dev"),
            "--ignore-not-found",
        )
        scratch.routes()
        eventually(lambda: scratch.ask().status, lambda seen: seen == 200)
