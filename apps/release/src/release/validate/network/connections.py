"""What the releases' own values say of who calls whom: `callers`, `calls`, `uses`, the peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from release.render import merged_values
from release.render.helm import Release
from release.validate.environment import Environment
from release.values import layout, locations
from release.values.merge import Values

GATEWAY = "gateway"
"""The caller that is the ingress gateway, in no release's name."""
DEFAULT_PORT = "8080/TCP"
"""What a release connects to where `calls` names no ports, as charts/service has it."""


@dataclass(frozen=True)
class Connections:
    """One release of charts/service; ports are texts such as `8080/TCP`."""

    root: Path
    release: Release
    every: Values
    """Its values over the chart's defaults."""

    @cached_property
    def callers(self) -> dict[str, frozenset[str]]:
        """Who may call it, each with the ports."""
        own = [f"{port}/TCP" for port in _mapping(self.every.get("ports")).values() if port]
        return _ports(self.every.get("callers"), own)

    @cached_property
    def calls(self) -> dict[str, frozenset[str]]:
        """Which releases it calls, each with the ports."""
        return _ports(self.every.get("calls"), [DEFAULT_PORT])

    @property
    def peers(self) -> Mapping[str, Mapping[str, Any]]:
        """The platform's peers by name."""
        named = _mapping(_mapping(self.every.get("platform")).get("peers"))
        return {name: _mapping(peer) for name, peer in named.items()}

    @property
    def has_service(self) -> bool:
        """Whether it has a Service by which others call it."""
        enabled = bool(_mapping(self.every.get("service")).get("enabled", True))
        return enabled and self.every.get("kind", "Deployment") == "Deployment"

    def place(self, key: str, *, everywhere: bool = True) -> str:
        """Where a key of the release's own values stands or belongs, with its line if it does.

        What is not meant ``everywhere`` belongs to the values of the environment.
        """
        if not everywhere:
            return layout.values_file(self.release.environment, self.release.name)
        place = locations.place_of(self.root, self.release.files, (key,))
        own = (layout.service_file(name) for name in (self.release.name, self.release.service))
        files = self.release.files
        return str(place or next((file for file in own if file in files), files[-1]))


def of(environment: Environment) -> dict[str, Connections]:
    """The connections of every release of charts/service that could be rendered, by its name."""
    return {
        release.name: Connections(
            environment.root, release, merged_values.with_defaults(environment.root, release)
        )
        for release in environment.documents
        if release.chart == "service"
    }


def everywhere(environment: Environment, name: str) -> bool:
    """Whether every environment has a release of this name, so that shared values may name it."""
    return all(name in names for names in environment.listed.values())


def row(name: str, port: str = DEFAULT_PORT) -> str:
    """The line that allows a connection, for `callers` and `calls` alike."""
    return f"`{name}: {{}}`" if port == DEFAULT_PORT else f"`{name}: {{ports: [{port}]}}`"


def _ports(named: object, default: list[str]) -> dict[str, frozenset[str]]:
    return {
        str(name): frozenset(map(str, _mapping(limits).get("ports") or default))
        for name, limits in _mapping(named).items()
        if limits not in (None, False)
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
