"""Labels that the API server refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from release.render.helm import Manifest
from release.validate.environment import Environment, pod_template
from release.validate.findings import Context, Finding

_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
# Values that become labels, in the order in which they are looked for.
_FROM = (("podLabels",), ("monitoring", "labels"), ("nodeSelector",))


def findings(environment: Environment) -> Iterator[Finding]:
    """Of every object and pod template; what several objects carry is one finding."""
    for release, manifests in environment.documents.items():
        seen: set[tuple[str, str]] = set()
        for document in manifests:
            for name, value in _labels(document):
                wrong = refusal(name, value)
                if wrong is None or (name, value) in seen:
                    continue
                seen.add((name, value))
                paths = [(*path, name) for path in _FROM]
                if name == "app.kubernetes.io/component":
                    paths.append(("component",))
                context = Context(environment.root, release, document)
                yield context.finding(f"podLabels.{name}", wrong, "use at most 63 letters, digits "
                    "and -, _ or ., with a letter or digit at both ends", *paths)  # fmt: skip


def refusal(name: str, value: str) -> str | None:
    """What is wrong with a label; None for a good one."""
    prefix, slash, own = name.rpartition("/")
    if not _NAME.fullmatch(own) or (slash and not _PREFIX.fullmatch(prefix)):
        return f"has a label named {name!r}: Kubernetes refuses it"
    if not _VALUE.fullmatch(value):
        return f"has the label {name} with the value {value!r}: Kubernetes refuses it"
    return None


def _labels(document: Manifest) -> Iterator[tuple[str, str]]:
    template = pod_template(document) or {}
    for metadata in (document.get("metadata", {}), template.get("metadata", {})):
        labels: Mapping[str, object] = metadata.get("labels") or {}
        yield from ((str(name), str(value)) for name, value in labels.items())
    selector: Mapping[str, object] = template.get("spec", {}).get("nodeSelector") or {}
    yield from ((str(name), str(value)) for name, value in selector.items())
