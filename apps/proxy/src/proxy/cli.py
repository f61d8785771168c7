# ruff: noqa: PLC0415 - what serves takes a second to import, more than refusing a setting
"""The `proxy` command: the gateway, its job worker, and the reference of their settings."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from kit import settings
from kit.lifecycle import start
from kit.lifecycle.health import Health
from kit.telemetry import logs
from proxy.settings import ProxySettings

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


# What these say below that level has queries, headers and bodies in it: uvicorn's line for each
# WebSocket, the frames of the websockets library (which has uvicorn's logger), boto3's calls.
TELLTALES = {"uvicorn.error": logging.WARNING, "botocore": logging.INFO, "boto3": logging.INFO}


def _configure(loaded: ProxySettings, service: str) -> None:
    logs.configure(
        level=loaded.log_level,
        service=service,
        release=loaded.release_name,
        pod=loaded.pod_name,
        revision=loaded.source_revision,
    )
    for name, least in TELLTALES.items():
        found = logging.getLogger(name)
        found.setLevel(max(least, found.getEffectiveLevel()))


@app.command()
def serve() -> None:
    """Serve the gateway until SIGTERM."""
    loaded = start.load(ProxySettings)
    from kit.http.server import serve as run_server
    from proxy.app import create_app
    from proxy.server.protocol import ProxyProtocol
    from proxy.server.websocket import BoundedWebSocket

    _configure(loaded, "proxy")
    health = Health()
    gateway = create_app(loaded, health)
    run_server(gateway, loaded, health, http=ProxyProtocol, ws=BoundedWebSocket)


@app.command()
def worker() -> None:
    """Run jobs until SIGTERM, then finish or hand back what is under way."""
    loaded = start.load(ProxySettings)
    if not loaded.redis_url:
        start.refuse("PROXY_REDIS_URL: a worker needs Redis, where the jobs are")
    from kit.http.server import serve as run_server
    from proxy.app import create_worker

    _configure(loaded, "worker")
    health = Health()
    jobs = create_worker(loaded, health)
    run_server(jobs, loaded, health)


@app.command("settings")
def show_settings(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print the settings reference."""
    sys.stdout.write(settings.reference(ProxySettings, title="proxy", as_json=as_json))


def main() -> None:
    """Run the command."""
    app()
