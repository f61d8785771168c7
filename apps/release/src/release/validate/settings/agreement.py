"""What the chart and a service are each configured with, and must agree about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from release.render import merged_values
from release.render.helm import Release
from release.validate.findings import Finding, at_value
from release.values.merge import Values

# From the end of the drain until the process and its sidecar are gone.
_EXIT_SECONDS = 5


class _Setting(Protocol):
    @property
    def default(self) -> object: ...


def findings(
    root: Path, release: Release, prefix: str, known: Mapping[str, _Setting]
) -> Iterator[Finding]:
    """Ports, the model's folder and the time to stop; settings begin with ``prefix``."""
    every = merged_values.with_defaults(root, release)
    given = {name: merged_values.as_text(one.default) for name, one in known.items()}
    given |= merged_values.environment(every)
    if every.get("kind") == "Deployment":
        yield from _ports(root, release, prefix, every, given)
        yield from _stop(root, release, prefix, every, given)
    fetch, variable = every.get("modelFetch") or {}, f"{prefix}MODEL_REPOSITORY"
    folder = str(fetch.get("path", "")).rstrip("/")
    if fetch.get("enabled") and variable in given and given[variable].rstrip("/") != folder:
        yield at_value(
            root, release, "modelFetch.path",
            f"the model is fetched into modelFetch.path {folder!r}, and the service reads "
            f"{variable} {given[variable]!r}", "write the same folder for both",
            ("modelFetch", "path"), ("env", variable),
        )  # fmt: skip


def _ports(
    root: Path, release: Release, prefix: str, every: Values, given: Mapping[str, str]
) -> Iterator[Finding]:
    ports = every.get("ports") or {}
    for name, variable in (("http", f"{prefix}PORT"), ("grpc", f"{prefix}GRPC_PORT")):
        number = ports.get(name)
        if number is None:
            continue
        text = given.get(variable)
        if text is None:
            yield at_value(
                root, release, f"ports.{name}",
                f"is {number}, and the service has no setting {variable}: nothing listens there",
                f"take ports.{name} out", ("ports", name),
            )  # fmt: skip
        elif text.strip().isdecimal() and int(text) != number:
            yield at_value(
                root, release, f"env.{variable}",
                f"is {text}, and ports.{name} is {number}: nothing listens where the probes and "
                "the Service ask", "write the same number for both",
                ("env", variable), ("ports", name),
            )  # fmt: skip


def _stop(
    root: Path, release: Release, prefix: str, every: Values, given: Mapping[str, str]
) -> Iterator[Finding]:
    stop = every.get("stop") or {}
    try:
        delay = float(given[f"{prefix}STOP_DELAY_SECONDS"])
        drain = float(given[f"{prefix}DRAIN_SECONDS"])
        grace = float(stop["graceSeconds"])
        needed = float(stop.get("preStopSeconds") or 0) + delay + drain + _EXIT_SECONDS
    except (KeyError, ValueError, TypeError):
        return  # found elsewhere
    if grace < needed:
        yield at_value(
            root, release, "stop.graceSeconds",
            f"is {grace:g}, and the service takes up to {needed:g} seconds to stop "
            f"({prefix}STOP_DELAY_SECONDS {delay:g}, {prefix}DRAIN_SECONDS {drain:g}, and "
            f"{_EXIT_SECONDS} to exit): it is killed with requests under way",
            f"write at least {needed:g}", ("stop", "graceSeconds"),
            ("env", f"{prefix}DRAIN_SECONDS"), ("env", f"{prefix}STOP_DELAY_SECONDS"),
        )  # fmt: skip
