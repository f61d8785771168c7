"""flow.admission: whose images are a sidecar's, however the mesh's injector is configured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flow.admission import parameters, sidecar_images


def injector(hub: str, image: str) -> dict[str, Any]:
    values = {"global": {"hub": hub, "proxy": {"image": image}}}
    return {"data": {"values": json.dumps(values)}}


@pytest.mark.parametrize(
    ("hub", "image", "repository"),
    [
        ("registry.istio.io/release", "proxyv2", "registry.istio.io/release/proxyv2"),
        ("127.0.0.1:5000/slipway", "istio-proxy", "127.0.0.1:5000/slipway/istio-proxy"),
        ("ignored", "127.0.0.1:5000/slipway/istio-proxy:1", "127.0.0.1:5000/slipway/istio-proxy"),
        ("ignored", "gcr.io/istio/proxyv2@sha256:00", "gcr.io/istio/proxyv2"),
        ("ignored", "gcr.io/istio/proxyv2:1@sha256:00", "gcr.io/istio/proxyv2"),
    ],
)
def test_the_sidecar_is_what_the_injector_adds(hub: str, image: str, repository: str) -> None:
    assert sidecar_images(injector(hub, image)) == [f"{repository}:", f"{repository}@"]


def test_without_a_mesh_no_sidecar_is_allowed() -> None:
    assert sidecar_images({}) == []
    assert parameters("registry.test/slipway", [])["data"] == {
        "registries": "registry.test/slipway/",
        "sidecarImages": "",
    }
