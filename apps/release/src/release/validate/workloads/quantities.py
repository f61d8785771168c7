"""Kubernetes quantities: what the API server refuses, and what cannot be meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

from release.render.helm import Release
from release.validate.environment import Environment, containers, pod_template
from release.validate.findings import Finding, at_value

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_GRAMMAR = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:(?P<unit>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,3}))?"
)
_UNITS = {unit: Decimal(10) ** power for unit, power in zip("numkMGTPE", (
    -9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)}  # fmt: skip
_UNITS |= {f"{letter}i": Decimal(2) ** (10 * n) for n, letter in enumerate("KMGTPE", 1)}
_LARGEST = Decimal(2**63 - 1)  # Kubernetes takes this for everything above it
_MEBIBYTE = Decimal(2**20)
_MOST_CORES = 1000
_RESOURCES = ("cpu", "memory", "ephemeral-storage")
# What a ResourceQuota may limit without a / in its name.
_COUNTED = (
    "pods", "services", "services.loadbalancers", "services.nodeports", "configmaps", "secrets",
    "persistentvolumeclaims", "replicationcontrollers", "resourcequotas",
)  # fmt: skip
_QUOTA = (
    *_COUNTED, *_RESOURCES, "requests.storage",
    *(f"{group}.{name}" for group in ("requests", "limits") for name in _RESOURCES),
)  # fmt: skip
SIDECAR = {
    "requests.cpu": "sidecar.istio.io/proxyCPU",
    "requests.memory": "sidecar.istio.io/proxyMemory",
    "limits.cpu": "sidecar.istio.io/proxyCPULimit",
    "limits.memory": "sidecar.istio.io/proxyMemoryLimit",
}

Amounts = Mapping[str, Mapping[str, object]]


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity such as ``250m``, ``1e3`` or ``1Gi`` in its base unit.

    Raises ValueError where the text is none.
    """
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    amount = Decimal(match["number"]) * _UNITS.get(match["unit"] or "", Decimal(1))
    amount *= Decimal(10) ** int(match["exponent"] or 0)
    return max(-_LARGEST, min(_LARGEST, amount))


def or_zero(value: object) -> Decimal:
    """A quantity, 0 where it is none: `findings` says so."""
    try:
        return quantity(str(value))
    except ValueError:
        return Decimal(0)


def findings(environment: Environment) -> Iterator[Finding]:
    """Of all containers, sidecars, quotas and limit ranges."""
    root = environment.root
    for release, manifests in environment.documents.items():
        for document in manifests:
            for _, container in containers(document):
                yield from _requested(root, release, ("resources",), container.get("resources", {}))
            annotations = (pod_template(document) or {}).get("metadata", {}).get("annotations", {})
            yield from _requested(
                root, release, ("sidecar", "resources"), _of_sidecar(annotations or {})
            )
            if document["kind"] == "ResourceQuota":
                yield from _limited(root, release, document["spec"]["hard"])
            if document["kind"] == "LimitRange":
                for one in document["spec"]["limits"]:
                    amounts = {
                        "requests": one.get("defaultRequest") or {},
                        "limits": one.get("default") or {},
                    }
                    yield from _requested(root, release, ("limits",), amounts)


def _of_sidecar(annotations: Mapping[str, object]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for name, annotation in SIDECAR.items():
        if annotation in annotations:
            group, resource = name.split(".")
            found.setdefault(group, {})[resource] = annotations[annotation]
    return found


def _requested(
    root: Path, release: Release, path: tuple[str, ...], amounts: Amounts
) -> Iterator[Finding]:
    """Of requests and limits, each of which is a value under ``path``."""
    wrong = set()
    for group in ("requests", "limits"):
        for resource, value in (amounts.get(group) or {}).items():
            where = (*path, group, resource)
            said = _unknown(resource) or refusal(resource, str(value))
            if said is not None:
                wrong.add(resource)
                yield at_value(root, release, ".".join(where), *said, where)
    limits = amounts.get("limits") or {}
    for resource, value in (amounts.get("requests") or {}).items():
        limit = limits.get(resource)
        if limit is None or resource in wrong or or_zero(value) <= or_zero(limit):
            continue
        asked, most = (*path, "requests", resource), (*path, "limits", resource)
        yield at_value(
            root, release, ".".join(most),
            f"the request of {resource} is {value}, above its limit of {limit}: Kubernetes refuses "
            "the pods", f"raise {'.'.join(most)} to {value} or more, or lower {'.'.join(asked)}",
            most, asked,
        )  # fmt: skip


def _limited(root: Path, release: Release, hard: Mapping[str, object]) -> Iterator[Finding]:
    for name, value in hard.items():
        said = refusal(name, str(value))
        if name not in _QUOTA and "/" not in name and "hugepages-" not in name:
            near = difflib.get_close_matches(name, _QUOTA, n=1)
            said = (
                f"{name!r} is nothing that a ResourceQuota limits: Kubernetes refuses it",
                f"did you mean {near[0]}?" if near else "see docs/reference/chart-environment.md",
            )
        if said is not None:
            yield at_value(root, release, f"quota.{name}", *said, ("quota", name))


def _unknown(resource: str) -> tuple[str, str] | None:
    """Names without a / are Kubernetes' own."""
    if resource in _RESOURCES or "/" in resource or resource.startswith("hugepages-"):
        return None
    near = difflib.get_close_matches(resource, _RESOURCES, n=1)
    return (
        f"{resource!r} is no resource of a container: Kubernetes refuses the pods",
        f"did you mean {near[0]}?" if near else f"use one of {', '.join(_RESOURCES)}, or the "
        "full name of a device such as nvidia.com/gpu",
    )  # fmt: skip


def refusal(resource: str, text: str) -> tuple[str, str] | None:
    """What is wrong with an amount of a resource, and the fix; None for a good one."""
    try:
        amount = quantity(text)
    except ValueError:
        meant = _meant(text)
        return (
            f"is {text!r}, which is no Kubernetes quantity",
            f"did you mean {meant}?" if meant else "write a number with nothing behind it, or one "
            "of m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei",
        )  # fmt: skip
    if amount < 0:
        return f"is {text}, and an amount is at least 0", "write it without the sign"
    kind = resource.removeprefix("requests.").removeprefix("limits.")
    if kind in ("memory", "ephemeral-storage", "storage") or kind.startswith("hugepages-"):
        if text.endswith(("m", "u", "n")):
            return (
                f"is {text}, and the unit {text[-1]} is a fraction of a byte",
                f"did you mean {text[:-1]}Mi?",
            )
        if 0 < amount < _MEBIBYTE:
            number = text.rstrip("kKi")
            return (
                f"is {text}, which is {amount:f} bytes: no program runs in that",
                f"did you mean {number}Mi?",
            )
    elif kind == "cpu":
        if amount >= _MOST_CORES:
            digits = re.match(r"[+0-9.]*", text)
            return (
                f"is {text}, which is {amount:f} cores",
                f"did you mean {digits[0] if digits else ''}m?",
            )
    elif amount != amount.to_integral_value():
        return f"is {text}, and it takes an integer", "write an integer"
    return None


def _meant(text: str) -> str:
    """The quantity that a text with the units of other programs is meant to be; empty for none."""
    match = re.fullmatch(r"([0-9]+(?:[.,][0-9]+)?)([a-zA-Z]+)", re.sub(r"\s", "", text))
    if match is None:
        return ""
    number, unit = match[1].replace(",", "."), match[2]
    if unit.lower() in ("cores", "core", "cpu", "cpus"):
        return number
    letter = unit[0].upper()
    complete = unit if unit in _UNITS else f"{letter}i" if letter in "KMGTPE" else ""
    return f"{number}{complete}" if complete else ""
