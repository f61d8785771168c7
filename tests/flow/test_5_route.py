"""Stage 5: every route leads to a service that is there, on a port it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow.render import render
from tests.programs import require

ENVIRONMENTS = ("dev", "stage", "prod")


@pytest.fixture(scope="module")
def rendered(deployed: Path) -> dict[str, list[dict[str, Any]]]:
    require("helm")
    return {
        environment: [
            document
            for documents in render(deployed, environment).values()
            for document in documents
        ]
        for environment in ENVIRONMENTS
    }


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_destinations_are_services_with_that_port_and_subset(
    rendered: dict[str, list[dict[str, Any]]], environment: str
) -> None:
    documents = rendered[environment]
    ports = {
        service["metadata"]["name"]: {port["port"] for port in service["spec"]["ports"]}
        for service in of_kind(documents, "Service")
    }
    subsets = {
        rule["spec"]["host"].partition(".")[0]: {
            subset["name"] for subset in rule["spec"].get("subsets", [])
        }
        for rule in of_kind(documents, "DestinationRule")
    }
    seen = 0
    for virtual_service in of_kind(documents, "VirtualService"):
        for route in virtual_service["spec"]["http"]:
            for leg in route.get("route", []):
                destination = leg["destination"]
                name = destination["host"].partition(".")[0]
                assert name in ports
                if "port" in destination:
                    assert destination["port"]["number"] in ports[name]
                if "subset" in destination:
                    assert destination["subset"] in subsets[name]
                seen += 1
    assert seen > 0


def test_each_environment_answers_at_a_host_of_its_own(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    hosts = {
        environment: [
            host
            for gateway in of_kind(documents, "Gateway")
            for server in gateway["spec"]["servers"]
            for host in server["hosts"]
        ]
        for environment, documents in rendered.items()
    }
    for environment in ENVIRONMENTS:
        assert f"{environment}.slipway.localhost" in " ".join(hosts[environment])
    everything = [host for found in hosts.values() for host in found]
    assert len(everything) == len(set(everything))
