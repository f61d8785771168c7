"""flow.dev: a service of this machine gets what its pods have, at addresses of this machine."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from flow.dev import Neighbour, planned

SERVICES = {("dev", "inference"), ("slipway-system", "redis"), ("slipway-system", "s3")}
VOLUMES = [{"name": "keys", "secret": {}}, {"name": "tmp", "emptyDir": {}}]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "word:7070"}
KEPT = {
    ("secret", "s3-credentials"): CREDENTIALS,
    ("configMap", "proxy"): {"PROXY_BACKENDS": '{"url": "http://inference:8080"}'},
}


def deployment(**container: Any) -> dict[str, Any]:
    own = {"name": "proxy", "args": ["serve"], **container}
    return {
        "metadata": {"name": "proxy", "namespace": "dev"},
        "spec": {
            "template": {"spec": {"containers": [{"name": "istio-proxy"}, own], "volumes": VOLUMES}}
        },
    }


def plan_of(**container: Any) -> Any:
    return planned(deployment(**container), SERVICES, KEPT, itertools.count(40001))


def setting(value: str) -> tuple[str, list[Neighbour]]:
    plan = plan_of(env=[{"name": "A", "value": value}])
    return plan.settings["A"], plan.neighbours


@pytest.mark.parametrize(
    ("value", "local", "neighbour"),
    [
        ("http://inference:8080", "http://127.0.0.1:40001", ("dev", "inference", 8080)),
        ("http://inference:8080/v2", "http://127.0.0.1:40001/v2", ("dev", "inference", 8080)),
        (
            "redis://redis.slipway-system:6379/0",
            "redis://127.0.0.1:40001/0",
            ("slipway-system", "redis", 6379),
        ),
        (
            "redis://user:word@redis.slipway-system.svc.cluster.local:6379",
            "redis://user:word@127.0.0.1:40001",
            ("slipway-system", "redis", 6379),
        ),
        (
            '{"inference": {"url": "http://inference:8080"}}',
            '{"inference": {"url": "http://127.0.0.1:40001"}}',
            ("dev", "inference", 8080),
        ),
    ],
)
def test_addresses_of_the_cluster_become_ports_here(
    value: str, local: str, neighbour: tuple[str, str, int]
) -> None:
    assert setting(value) == (local, [Neighbour(*neighbour, 40001)])


@pytest.mark.parametrize(
    "value",
    ["https://example.org:443/x", "my-inference:8080", "inference.prod:8080", "12:30", "inference"],
)
def test_what_is_no_service_of_the_cluster_stays(value: str) -> None:
    assert setting(value) == (value, [])


def test_one_service_in_two_settings_is_forwarded_once() -> None:
    two = [{"name": name, "value": "http://inference:8080"} for name in ("A", "B")]
    plan = plan_of(env=two)
    assert plan.settings["A"] == plan.settings["B"]
    assert len(plan.neighbours) == 1


def test_a_config_map_holds_settings_with_addresses_too() -> None:
    plan = plan_of(envFrom=[{"configMapRef": {"name": "proxy"}}])
    assert plan.settings == {"PROXY_BACKENDS": '{"url": "http://127.0.0.1:40001"}'}
    assert plan.missing == []


def test_secrets_are_read_and_what_is_not_here_is_named() -> None:
    key = {"secretKeyRef": {"name": "s3-credentials", "key": "AWS_ACCESS_KEY_ID"}}
    gone = {"configMapKeyRef": {"name": "gone", "key": "k"}}
    plan = plan_of(
        env=[{"name": "KEY", "valueFrom": key}, {"name": "GONE", "valueFrom": gone}],
        envFrom=[
            {"secretRef": {"name": "s3-credentials"}},
            {"secretRef": {"name": "gone"}},
            {"secretRef": {"name": "may-be-gone", "optional": True}},
        ],
        volumeMounts=[
            {"name": "keys", "mountPath": "/etc/keys"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    )
    assert plan.settings == {**CREDENTIALS, "KEY": "key"}
    assert [text.split(",")[0] for text in plan.missing] == [
        "the variables of the secret gone",
        "GONE",
        "the files of /etc/keys",
    ]
    assert plan.arguments == ["serve"]
