"""A gateway asks the pods of its own zone while they are well, and those of others when not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.charts.gateways import Gateway, own_gateway
from tests.charts.scratch import (
    GATEWAY,
    NAMESPACE,
    Scratch,
    apply_stub,
    become,
    delete_stub,
    eventually,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# Stands for the labels that a cloud puts on its nodes (`topology.kubernetes.io/zone`).
ZONE = "istio-locality"
HERE, THERE = "eu.eu-a.1", "eu.eu-b.1"
CLUSTER = f"outbound|8080||stub.{NAMESPACE}.svc.cluster.local"


@pytest.fixture(scope="module")
def zones(scratch: Scratch) -> Iterator[Gateway]:
    """A gateway and a stub in one zone, another stub in another."""
    with own_gateway("zones", 1, {ZONE: HERE}) as gateway:
        apply_stub("near", "stub", labels={ZONE: HERE})
        apply_stub("far", "stub", labels={ZONE: THERE})
        scratch.gateway = gateway.url
        yield gateway
        scratch.gateway = GATEWAY
        delete_stub("near")
        delete_stub("far")
        scratch.routes()


def priorities(gateway: Gateway) -> dict[str, int]:
    """Priority, 0 before 1, of each zone that the gateway's Envoy knows of."""
    found = json.loads(gateway.envoy("clusters?format=json"))["cluster_statuses"]
    hosts = [host for one in found if one["name"] == CLUSTER for host in one["host_statuses"]]
    return {host["locality"].get("zone", ""): host.get("priority", 0) for host in hosts}


def pods(scratch: Scratch) -> Counter[str]:
    """Which pods answer 30 requests."""
    return scratch.count(30, path="/stub/any", by="pod")


def test_the_own_zone_comes_first_and_another_when_it_is_ill(
    zones: Gateway, scratch: Scratch
) -> None:
    outlier = {"consecutiveErrors": 3, "interval": "1s", "baseEjectionTime": "5s"}
    scratch.routes({"stub": {"outlierDetection": outlier}}, gateway=zones.values)
    eventually(zones.listens, bool)
    eventually(lambda: pods(scratch), lambda seen: seen == {"near": 30})
    found = priorities(zones)
    assert found["eu-a"] == 0
    assert found["eu-b"] == 1
    become("near", 503)
    eventually(lambda: pods(scratch), lambda seen: seen == {"far": 30})
    become("near", 200)
    eventually(lambda: pods(scratch), lambda seen: seen == {"near": 30})


def test_all_zones_are_asked_alike_where_the_values_say_so(
    zones: Gateway, scratch: Scratch
) -> None:
    alike = {"locality": False, "policy": "ROUND_ROBIN"}
    scratch.routes({"stub": {"loadBalancing": alike}}, gateway=zones.values)
    eventually(zones.listens, bool)
    eventually(lambda: pods(scratch), lambda seen: {"near", "far"} <= seen.keys())
    assert set(priorities(zones).values()) == {0}
