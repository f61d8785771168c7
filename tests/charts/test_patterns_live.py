"""Every routing pattern on the cluster, by counting real requests through real Envoys.

The routes are those of charts/routing in a namespace of its own; the values in each test are
the ones its page in docs/patterns shows.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.charts.callers import pod_elsewhere, status_from
from tests.charts.scratch import (
    NAMESPACE,
    Answer,
    Scratch,
    apply_service,
    apply_stub,
    become,
    delete_stub,
    eventually,
    kubectl,
)
from tests.charts.tokens import Issuer, token

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHALLENGER = "inference-challenger"


# By VirtualServices and by HTTPRoutes, from the same values.
by_either_api = pytest.mark.parametrize("plain_routes", ["istio", "gateway-api"], indirect=True)


@pytest.fixture(autouse=True)
def plain_routes(scratch: Scratch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test starts from the fixture's routes and leaves them."""
    scratch.api = getattr(request, "param", "istio")
    yield
    scratch.api = "istio"
    scratch.routes()
    eventually(
        lambda: scratch.count(20),
        lambda seen: seen == Counter({"inference": 20}),
    )


@by_either_api
def test_condition_based_by_header(scratch: Scratch) -> None:
    rule = {"headers": {"X-Group": "beta"}, "to": CHALLENGER}
    scratch.routes({"inference": {"rules": {"beta": rule}}})
    beta = {"X-Group": "beta"}
    eventually(lambda: scratch.ask(headers=beta).variant, lambda seen: seen == CHALLENGER)
    assert scratch.count(50, headers=beta) == {CHALLENGER: 50}
    assert scratch.count(50) == {"inference": 50}
    assert scratch.count(50, headers={"X-Group": "other"}) == {"inference": 50}


@by_either_api
def test_condition_based_by_query(scratch: Scratch) -> None:
    scratch.routes({"inference": {"rules": {"big": {"query": {"size": "big"}, "to": CHALLENGER}}}})
    big = "/v2/models/digits/infer?size=big"
    eventually(lambda: scratch.ask(big).variant, lambda seen: seen == CHALLENGER)
    assert scratch.count(50, path=big) == {CHALLENGER: 50}
    assert scratch.count(50) == {"inference": 50}


@by_either_api
def test_canary_by_weight(scratch: Scratch) -> None:
    scratch.routes({"inference": {"split": {"inference": 70, CHALLENGER: 30}}})
    eventually(lambda: scratch.count(20), lambda seen: CHALLENGER in seen)
    seen = scratch.count(400, at_once=2)
    # 120 expected; five standard deviations of 9.2 either side.
    assert 74 <= seen[CHALLENGER] <= 166, seen
    assert sum(seen.values()) == 400
    assert "" not in seen


@by_either_api
def test_canary_among_services_of_the_mesh(scratch: Scratch) -> None:
    """The same split, carried out by the sidecar of a caller inside."""
    called = {"inference": {}, CHALLENGER: {}}
    scratch.release("inference", callers={CHALLENGER: {}})
    scratch.release(CHALLENGER, callers={CHALLENGER: {}}, calls=called)
    scratch.routes({"inference": {"split": {"inference": 50, CHALLENGER: 50}}})
    try:
        seen = eventually(
            lambda: _variants_from(CHALLENGER, 100), lambda counted: counted.keys() > {"inference"}
        )
    finally:
        # It is no caller to the other tests.
        for name in ("inference", CHALLENGER):
            scratch.release(name)
    # 50 expected; five standard deviations of 5 either side.
    assert 25 <= seen[CHALLENGER] <= 75, seen
    assert sum(seen.values()) == 100


@by_either_api
def test_ab_by_sticky_arm(scratch: Scratch) -> None:
    arms = {"challenger": CHALLENGER, "control": "inference"}
    scratch.routes({"inference": {"arms": arms, "split": {"inference": 50, CHALLENGER: 50}}})
    control = {"X-Slipway-Arm": "control"}
    eventually(lambda: scratch.count(20, headers=control), lambda seen: seen == {"inference": 20})
    assert scratch.count(50, headers=control) == {"inference": 50}
    assert scratch.count(50, headers={"X-Slipway-Arm": "challenger"}) == {CHALLENGER: 50}


@by_either_api
def test_shadow_copies_every_request_and_changes_no_answer(scratch: Scratch) -> None:
    before = scratch.predictions_of_challenger()
    scratch.routes({"inference": {"mirror": {"to": CHALLENGER}}})
    eventually(
        lambda: (scratch.ask(), scratch.predictions_of_challenger())[1],
        lambda seen: seen > before,
    )
    time.sleep(0.5)  # the copy of the last request may still be under way
    before = scratch.predictions_of_challenger()
    assert scratch.count(100) == {"inference": 100}
    eventually(scratch.predictions_of_challenger, lambda seen: seen == before + 100, 20)


@by_either_api
def test_shadow_copies_a_share(scratch: Scratch) -> None:
    scratch.routes({"inference": {"mirror": {"to": "stub", "percent": 50}}})
    eventually(lambda: (scratch.ask(), _shadows(scratch))[1], lambda seen: seen > 0)
    before = _settled(lambda: _shadows(scratch))
    assert scratch.count(200, at_once=2) == {"inference": 200}
    copies = _settled(lambda: _shadows(scratch)) - before
    # 100 expected; five standard deviations of 7.1 either side.
    assert 65 <= copies <= 135


def test_a_copy_can_be_told_from_a_request(scratch: Scratch) -> None:
    """By its host, which is how the services keep its effects out of their logs.

    Istio 1.31 no longer marks copies unless istiod is told to.
    """
    path = "jsonpath={.spec.template.spec.containers[0].env}"
    told = json.loads(kubectl("get", "deployment", "istiod", "-n", "istio-system", "-o", path))
    setting = {"name": "DISABLE_SHADOW_HOST_SUFFIX", "value": "false"}
    assert setting in told, (
        'set pilot.env.DISABLE_SHADOW_HOST_SUFFIX to "false" where istiod is installed'
    )
    scratch.routes({"inference": {"mirror": {"to": "stub"}}})
    eventually(lambda: (scratch.ask(), _shadows(scratch))[1], lambda seen: seen > 0)


@pytest.mark.parametrize(("status", "seconds"), [(500, 0), (200, 30)], ids=["failing", "slow"])
@by_either_api
def test_a_broken_shadow_is_not_noticed(scratch: Scratch, status: int, seconds: float) -> None:
    become("stub", status, seconds)
    scratch.routes({"inference": {"mirror": {"to": "stub"}}})
    try:
        eventually(lambda: (scratch.ask(), _shadows(scratch))[1], lambda seen: seen > 0)
        before = _shadows(scratch)
        assert scratch.count(50, at_once=4) == {"inference": 50}
        eventually(lambda: _shadows(scratch), lambda seen: seen >= before + 50)
        if seconds:
            # All are answered while their copies still wait for theirs.
            waiting = int(scratch.ask("/stub/waiting").text)
            assert waiting >= 50, "the shadow was not slow"
    finally:
        become("stub", 200)


@by_either_api
def test_an_absent_shadow_is_not_noticed(scratch: Scratch) -> None:
    scratch.routes({"inference": {"mirror": {"to": CHALLENGER}}})
    kubectl("scale", "deployment", CHALLENGER, "-n", NAMESPACE, "--replicas=0")
    try:
        eventually(
            lambda: kubectl(
                "get",
                "endpointslices",
                "-n",
                NAMESPACE,
                "-o",
                "json",
                "-l",
                f"kubernetes.io/service-name={CHALLENGER}",
            ),
            lambda text: not any(one.get("endpoints") for one in json.loads(text)["items"]),
        )
        assert scratch.count(100, by="status") == {200: 100}
    finally:
        kubectl("scale", "deployment", CHALLENGER, "-n", NAMESPACE, "--replicas=1")
        scratch.wait(CHALLENGER)


def test_fault_injection_hits_only_who_asks_for_it(scratch: Scratch) -> None:
    scratch.routes({"inference": {"fault": {"value": "broken", "abort": 503}}})
    broken = {"X-Slipway-Fault": "broken"}
    eventually(lambda: scratch.ask(headers=broken).status, lambda seen: seen == 503)
    assert scratch.count(30, headers=broken, by="status") == {503: 30}
    assert scratch.count(30, by="status") == {200: 30}


def test_a_share_of_those_who_ask_for_it_is_delayed(scratch: Scratch) -> None:
    scratch.routes({"inference": {"fault": {"value": "slow", "delay": "3s", "percent": 50}}})
    slow = {"X-Slipway-Fault": "slow"}
    eventually(lambda: scratch.ask(headers=slow).seconds, lambda seen: seen >= 3)
    answers = _answers(scratch, 100, 10, headers=slow)
    assert {one.status for one in answers} == {200}
    # 50 expected; five standard deviations of 5 either side.
    assert 25 <= sum(one.seconds >= 3 for one in answers) <= 75
    assert all(one.seconds < 3 for one in _answers(scratch, 30, 2))


@by_either_api
def test_timeout_ends_a_slow_answer(scratch: Scratch) -> None:
    scratch.routes({"stub": {"timeout": "500ms"}})
    answer = eventually(lambda: scratch.ask("/stub/slow/5"), lambda seen: seen.status == 504)
    assert answer.seconds < 4
    assert scratch.ask("/stub/slow/0").status == 200


@by_either_api
def test_a_request_that_failed_is_not_sent_again(scratch: Scratch) -> None:
    """Istio's own default would send it three times: a write would be tripled."""
    before = _stub_count(scratch)
    assert scratch.count(20, path="/stub/status/503", by="status") == {503: 20}
    assert _stub_count(scratch) - before == 20 + 1


def test_idempotent_requests_are_sent_again_where_the_values_say_so(scratch: Scratch) -> None:
    retries = {"idempotent": True, "attempts": 2, "retryOn": ["503"]}
    # Its pod would be ejected for its answers otherwise.
    never = {"consecutiveErrors": 0}
    scratch.routes({"stub": {"retries": retries, "outlierDetection": never}})

    def sent() -> int:
        before = _stub_count(scratch)
        assert scratch.ask("/stub/status/503").status == 503
        return _stub_count(scratch) - before - 1

    eventually(sent, lambda seen: seen == 3)


def test_a_try_that_takes_too_long_is_made_again(scratch: Scratch) -> None:
    retries = {
        "idempotent": True,
        "attempts": 2,
        "retryOn": ["gateway-error"],
        "perTryTimeout": "500ms",
    }
    never = {"consecutiveErrors": 0}
    scratch.routes({"stub": {"retries": retries, "outlierDetection": never}})

    def sent() -> tuple[int, int]:
        before = _stub_count(scratch)
        status = scratch.ask("/stub/slow/3").status
        return status, _stub_count(scratch) - before - 1

    eventually(sent, lambda seen: seen == (504, 3))


@by_either_api
def test_circuit_breaker_sheds_at_once(scratch: Scratch) -> None:
    tight = {"maxConnections": 1, "maxPendingRequests": 1}
    scratch.routes({"inference": {"circuitBreaking": tight}})
    eventually(
        lambda: scratch.count(60, at_once=16, by="status"),
        lambda seen: seen[503] > 0 and seen[200] > 0,
    )
    answers = scratch.count(200, at_once=16, by="status")
    assert set(answers) == {200, 503}, answers
    shed = eventually(lambda: [one for one in _answers(scratch, 60, 16) if one.status == 503], bool)
    assert all("overflow" in one.text for one in shed)
    # One at a time fits within the limits.
    assert scratch.count(50, by="status") == {200: 50}


@pytest.mark.parametrize(("status", "seconds"), [(503, 0), (200, 20)], ids=["failing", "slow"])
@by_either_api
def test_broken_pod_is_ejected_and_comes_back(
    scratch: Scratch, status: int, seconds: float
) -> None:
    """A pod that answers errors, and one that is slower than the route's timeout."""
    outlier = {"consecutiveErrors": 3, "interval": "1s", "baseEjectionTime": "5s"}
    scratch.routes({"inference": {"outlierDetection": outlier, "timeout": "2s"}})
    apply_stub("broken", "inference", status, seconds)
    failed = 504 if seconds else 503
    try:
        # It shares the Service with the healthy pod: some requests fail until it is ejected.
        eventually(lambda: _statuses(scratch, 12), lambda seen: failed in seen)
        eventually(lambda: _statuses(scratch, 40), lambda seen: seen == {200: 40})
        # Its time is over: it is tried again, and ejected again.
        eventually(lambda: _statuses(scratch, 12), lambda seen: failed in seen)
        eventually(lambda: _statuses(scratch, 40), lambda seen: seen == {200: 40})
        become("broken", 200)
        # Well again, it gets its share once its time is over.
        eventually(lambda: scratch.count(40)["stub"], lambda seen: seen > 5)
        assert _statuses(scratch, 100) == {200: 100}
    finally:
        delete_stub("broken")
    eventually(lambda: scratch.count(50), lambda seen: seen == {"inference": 50})


def test_rate_limit_answers_429(scratch: Scratch) -> None:
    scratch.routes({"inference": {"rateLimit": {"perSecond": 5, "burst": 10}}})
    seen = eventually(
        lambda: _answers(scratch, 60, 4),
        lambda answers: any(one.status == 429 for one in answers),
    )
    refused = next(one for one in seen if one.status == 429)
    assert refused.headers["retry-after"] == "1"
    begin = time.monotonic()
    seen = _answers(scratch, 100, 4)
    lasted = time.monotonic() - begin
    assert {one.status for one in seen} == {200, 429}
    # A bucket that was full, and what each second that began brought.
    assert sum(one.status == 200 for one in seen) <= 10 + 5 * (lasted + 1)


@by_either_api
def test_cors_answers_the_listed_origin_only(scratch: Scratch) -> None:
    scratch.routes({"inference": {"cors": {"origins": ["https://app.test"]}}})

    def preflight(origin: str) -> str:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = scratch.ask(headers=headers, method="OPTIONS")
        return answer.headers.get("access-control-allow-origin", "")

    eventually(lambda: preflight("https://app.test"), lambda seen: seen == "https://app.test")
    assert preflight("https://evil.test") == ""


@by_either_api
def test_tokens_are_verified(scratch: Scratch) -> None:
    issuer = Issuer(NAMESPACE)
    forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    scratch.routes(jwt=issuer.values)

    def status(token: str, **request: Any) -> int:
        return scratch.ask(headers={"Authorization": f"Bearer {token}"}, **request).status

    # Each pod's sidecar learns of it by itself.
    eventually(lambda: scratch.count(20, by="status"), lambda seen: seen == {403: 20})
    good, now = issuer.claims, int(time.time())
    eventually(lambda: status(token(issuer.key, good)), lambda seen: seen == 200)
    assert status(token(forger, good)) == 401
    assert status(token(issuer.key, {**good, "exp": now - 3600})) == 401
    assert status(token(issuer.key, {**good, "aud": "others"})) == 403
    assert status(token(issuer.key, {**good, "iss": "https://other.test"})) == 401
    assert status(token(None, good)) == 401, "alg none"
    assert scratch.ask("/v2/health/live", method="GET").status == 200, "a public path"


@by_either_api
def test_browsers_of_other_origins_ask_without_a_token(scratch: Scratch) -> None:
    """Found: their question, which carries no token, was answered 403."""
    issuer = Issuer(NAMESPACE)
    scratch.routes({"inference": {"cors": {"origins": ["https://app.test"]}}}, jwt=issuer.values)
    eventually(lambda: scratch.count(20, by="status"), lambda seen: seen == {403: 20})
    asking = {"Origin": "https://app.test", "Access-Control-Request-Method": "POST"}
    answer = eventually(
        lambda: scratch.ask(headers=asking, method="OPTIONS"), lambda seen: seen.status == 200
    )
    assert answer.headers["access-control-allow-origin"] == "https://app.test"
    assert scratch.ask(headers=asking).status == 403


def test_claims_of_a_verified_token_route(scratch: Scratch, request: pytest.FixtureRequest) -> None:
    issuer = Issuer(NAMESPACE)
    rules = {"staff": {"claims": {"group": "staff"}, "to": CHALLENGER}}
    verified = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": NAMESPACE, "namespace": "istio-ingress"},
        "spec": {
            "selector": {"matchLabels": {"istio": "ingressgateway"}},
            "jwtRules": [
                {"issuer": issuer.values["issuer"], "jwks": issuer.values["jwks"],
                 "forwardOriginalToken": True}
            ],
        },
    }  # fmt: skip
    kubectl("apply", "--server-side", "-f", "-", text=json.dumps(verified))
    request.addfinalizer(
        lambda: kubectl(*("delete", "requestauthentication", NAMESPACE, "-n", "istio-ingress"))
    )
    gateway = {"gateway": {"verifiesTokens": True}}
    scratch.routes({"inference": {"rules": rules}}, jwt=issuer.values, platform=gateway)

    def bearer(group: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token(issuer.key, {**issuer.claims, 'group': group})}"}

    staff = bearer("staff")
    eventually(lambda: scratch.ask(headers=staff).variant, lambda seen: seen == CHALLENGER)
    assert scratch.count(30, headers=staff) == {CHALLENGER: 30}
    assert scratch.count(30, headers=bearer("guests")) == {"inference": 30}


def test_a_service_without_a_sidecar_is_asked_in_plain_text(scratch: Scratch) -> None:
    """Found: its callers wanted mutual TLS of it, which nobody there speaks."""
    routes: dict[str, Any] = {"paths": ["/plain"]}
    try:
        scratch.policies("plain")
        apply_stub("plain", "plain", labels={"sidecar.istio.io/inject": "false"})
        apply_service("plain")
        scratch.routes({"plain": routes})
        eventually(lambda: scratch.ask("/plain/any").status, lambda seen: seen == 503)
        scratch.routes({"plain": {**routes, "sidecar": False}})
        eventually(lambda: scratch.ask("/plain/any").status, lambda seen: seen == 200)
        assert scratch.count(30, path="/plain/any", by="pod") == {"plain": 30}
    finally:
        kubectl("delete", "service", "plain", "-n", NAMESPACE, "--ignore-not-found")
        kubectl("delete", "pod", "plain", "-n", NAMESPACE, "--ignore-not-found")


def test_no_route_leads_to_metrics(scratch: Scratch) -> None:
    assert scratch.ask("/metrics", method="GET").status == 404


def test_hosts_outside_are_reached_while_they_are_registered(scratch: Scratch) -> None:
    """Found: the address that was asked is nobody's, so every failure passed."""
    serve = ("python3", "-m", "http.server", "8080", "--directory", "/tmp")
    with pod_elsewhere("outside", serve, mesh=False) as namespace:
        host = f"outside.{namespace}.svc.cluster.local"

        def status() -> str:
            return status_from(NAMESPACE, "inference", f"http://{host}:8080/")

        assert status() == "502"
        scratch.environment(
            platform={
                "peers": {"outside": {"namespace": namespace, "ports": ["8080/TCP"]}},
                "everyone": ["dns", "istiod", "outside"],
            },
            egressHosts={"outside": {"hosts": [host], "port": 8080, "protocol": "HTTP"}},
        )
        try:
            eventually(status, lambda seen: seen == "200")
        finally:
            kubectl("delete", "serviceentry", "outside", "-n", NAMESPACE)
            scratch.environment()
        eventually(status, lambda seen: seen == "502")


def _statuses(scratch: Scratch, requests: int) -> Counter[int]:
    return scratch.count(requests, at_once=4, by="status")


def _answers(scratch: Scratch, requests: int, at_once: int, **request: Any) -> list[Answer]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda _: scratch.ask(**request), range(requests)))


def _settled(read: Callable[[], int]) -> int:
    """A count once it no longer grows."""
    seen = [-1]

    def again() -> int:
        seen.append(read())
        return seen[-1]

    return eventually(again, lambda now: now == seen[-2])


def _shadows(scratch: Scratch) -> int:
    """How many copies the stub got."""
    answer = eventually(lambda: scratch.ask("/stub/shadows"), lambda seen: seen.status == 200)
    return int(answer.text.removeprefix("count(").removesuffix(")"))


def _stub_count(scratch: Scratch) -> int:
    """How many requests the stub got before this one."""
    answer = eventually(lambda: scratch.ask("/stub/count"), lambda seen: seen.status == 200)
    return int(answer.text)


_PREDICT = """
import collections, json, sys, urllib.error, urllib.request
body = json.dumps({"inputs": [
    {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
]}).encode()
seen = collections.Counter()
for _ in range(int(sys.argv[1])):
    request = urllib.request.Request("http://inference:8080/v2/models/digits/infer", body)
    try:
        seen[urllib.request.urlopen(request, timeout=10).headers["x-slipway-variant"]] += 1
    except urllib.error.HTTPError as error:
        seen[str(error.code)] += 1
print(json.dumps(seen))
"""


def _variants_from(release: str, requests: int) -> Counter[str]:
    """Which variants answer a pod of a release that asks inference, by name or by status."""
    command = ("exec", f"deployment/{release}", "-n", NAMESPACE, "-c", release, "--")
    return Counter(json.loads(kubectl(*command, "python3", "-c", _PREDICT, str(requests))))
