"""A service on this machine with the neighbours that its pods have: what `make dev` runs.

The settings are those of its Deployment. What they name of the cluster is reached by port-forwards,
which end in the neighbour's own pod: there the mesh asks for no identity.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.kube import Kubectl
from flow.errors import FlowError

_ADDRESS = re.compile(r"(?<![\w.-])(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?):(?P<port>\d{2,5})\b")
_WITH_FILES = {"secret", "configMap", "projected", "csi", "persistentVolumeClaim", "downwardAPI"}
"""Kinds of volumes that hold something when the pod starts."""
READY_SECONDS = 30.0
"""How long a port-forward may take."""


@dataclass(frozen=True)
class Neighbour:
    """A Service of the cluster, and the port of this machine that leads to it."""

    namespace: str
    service: str
    port: int
    local: int


@dataclass
class Plan:
    """How to run it: its arguments, its settings, whom it reaches, and what it has not here."""

    arguments: Sequence[str]
    settings: dict[str, str] = field(default_factory=dict)
    neighbours: list[Neighbour] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def planned(
    deployment: Mapping[str, Any],
    services: Collection[tuple[str, str]],
    kept: Mapping[tuple[str, str], Mapping[str, str]],
    free_port: Iterator[int],
) -> Plan:
    """What the container named as the Deployment is given, with addresses of this machine.

    ``services`` are (namespace, name). ``kept`` are the plain values of the namespace's Secrets
    and ConfigMaps, by kind (``secret``, ``configMap``) and name.
    """
    metadata = deployment["metadata"]
    pod = deployment["spec"]["template"]["spec"]
    container = next(c for c in pod["containers"] if c["name"] == metadata["name"])
    plan = Plan(container.get("args") or ())
    known: dict[tuple[str, str, int], Neighbour] = {}

    def local(found: re.Match[str]) -> str:
        name, _, rest = found["host"].partition(".")
        namespace = rest.split(".")[0] or metadata["namespace"]
        if (namespace, name) not in services:
            return found[0]
        key = (namespace, name, int(found["port"]))
        if key not in known:
            known[key] = Neighbour(*key, next(free_port))
        return f"127.0.0.1:{known[key].local}"

    for source in container.get("envFrom") or ():
        kind = "secret" if "secretRef" in source else "configMap"
        reference = source[f"{kind}Ref"]
        values = kept.get((kind, reference["name"]))
        if values is not None:
            plan.settings |= {source.get("prefix", "") + key: one for key, one in values.items()}
        elif not reference.get("optional"):
            plan.missing.append(f"the variables of the {kind} {reference['name']}")
    for one in container.get("env") or ():
        value = _value(one, kept)
        if value is None:
            plan.missing.append(f"{one['name']}, which the pod has from {one.get('valueFrom')}")
        else:
            plan.settings[one["name"]] = value
    plan.settings = {name: _ADDRESS.sub(local, text) for name, text in plan.settings.items()}
    plan.neighbours = list(known.values())
    with_files = {one["name"] for one in pod.get("volumes", ()) if _WITH_FILES & one.keys()}
    plan.missing += [
        f"the files of {one['mountPath']}"
        for one in container.get("volumeMounts", ())
        if one["name"] in with_files
    ]
    return plan


def _value(
    variable: Mapping[str, Any], kept: Mapping[tuple[str, str], Mapping[str, str]]
) -> str | None:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    for kind in ("secret", "configMap"):
        if key := source.get(f"{kind}KeyRef"):
            return kept.get((kind, key["name"]), {}).get(key["key"])
    if source.get("fieldRef", {}).get("fieldPath") == "metadata.name":
        return socket.gethostname()
    return None


def read(kubectl: Kubectl, app: str, environment: str) -> Plan:
    """The plan for a service of an environment.

    Raises FlowError where it has no Deployment there.
    """
    found = kubectl.items("deployments", "-n", environment)
    deployment = next((one for one in found if one["metadata"]["name"] == app), None)
    if deployment is None:
        names = ", ".join(sorted(one["metadata"]["name"] for one in found)) or "none"
        raise FlowError(f"{environment} has no Deployment {app}; it has {names}")
    services = {
        (one["metadata"]["namespace"], one["metadata"]["name"])
        for one in kubectl.items("services", "-A")
    }
    kept = {
        ("secret", one["metadata"]["name"]): {
            key: base64.b64decode(text).decode(errors="replace")
            for key, text in (one.get("data") or {}).items()
        }
        for one in kubectl.items("secrets", "-n", environment, "--field-selector=type=Opaque")
    } | {
        ("configMap", one["metadata"]["name"]): one.get("data") or {}
        for one in kubectl.items("configmaps", "-n", environment)
    }
    return planned(deployment, services, kept, _free_ports())


def _free_ports() -> Iterator[int]:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        yield port


@contextlib.contextmanager
def reached(kubectl: Kubectl, neighbours: Sequence[Neighbour]) -> Iterator[None]:
    """Port-forwards to the neighbours for as long as the block runs.

    Raises FlowError for one that does not come up.
    """
    configured = [f"--kubeconfig={kubectl.kubeconfig}"] if kubectl.kubeconfig else []
    running: list[subprocess.Popen[bytes]] = []
    try:
        for one in neighbours:
            running.append(
                subprocess.Popen(
                    [
                        *(kubectl.program, *configured, "port-forward"),
                        *(f"--namespace={one.namespace}", "--address=127.0.0.1"),
                        *(f"service/{one.service}", f"{one.local}:{one.port}"),
                    ],
                    stdout=subprocess.DEVNULL,
                )
            )
        for one, process in zip(neighbours, running, strict=True):
            _wait(one, process)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _wait(neighbour: Neighbour, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", neighbour.local), 1).close()
            return
        where = f"{neighbour.namespace}/{neighbour.service}:{neighbour.port}"
        if process.poll() is not None:
            raise FlowError(f"the port-forward to {where} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise FlowError(f"the port-forward to {where} is not there after {READY_SECONDS:g} s")
        time.sleep(0.1)


def run(root: Path, app: str, plan: Plan, port: int) -> None:
    """Run the service on a port until Ctrl-C; again whenever its sources change."""
    import watchfiles  # noqa: PLC0415 - no other command watches files

    program = root / ".venv" / "bin" / app
    if not program.is_file():
        raise FlowError(f"{program} is not there: apps/{app} has no command of its name")
    prefix = app.upper().replace("-", "_")
    os.environ.update(plan.settings)
    os.environ |= {f"{prefix}_PORT": str(port), f"{prefix}_HOST": "127.0.0.1"}
    watched = [root / "apps" / name / "src" for name in (app, "kit")]
    command = " ".join([str(program), *plan.arguments])
    watchfiles.run_process(
        *(path for path in watched if path.is_dir()), target=command, target_type="command"
    )
