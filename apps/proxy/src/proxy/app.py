"""The proxy put together: `create_app(settings)`."""

from __future__ import annotations

from kit.health import Health
from kit.probes import Probes
from starlette.types import ASGIApp

from proxy.api import create_api
from proxy.gateway import Gateway
from proxy.metrics import Metrics
from proxy.services import Services
from proxy.settings import ProxySettings


def create_app(settings: ProxySettings, health: Health | None = None) -> ASGIApp:
    """The ASGI application; it opens its connections when the lifespan starts."""
    health = health or Health()
    health.wait_for("start", "starting")
    metrics = Metrics()
    services = Services(settings, metrics)
    gateway = Gateway(services, create_api(services), health)
    return Probes(gateway, health, metrics.registry())
