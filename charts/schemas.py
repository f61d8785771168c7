"""The JSON schemas of every kind that the charts and argocd/ make, for kubeconform.

``python charts/schemas.py`` writes ``charts/schemas/<group>/<kind>_<version>.json`` from the
OpenAPI documents and CRDs that lie in the Go modules of Kubernetes, Istio, Argo CD and their
neighbours (``MODULES``): the same versions that the one-machine cluster runs. The schemas are
closed: a key that the API does not know is refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
ROOT = Path(__file__).resolve().parent
FOLDER = ROOT / "schemas"

KUBERNETES = "k8s.io/kubernetes@v1.36.3"
MODULES = {
    "github.com/argoproj/argo-cd/v3@v3.5.7": ["manifests/crds/*-crd.yaml"],
    "github.com/external-secrets/external-secrets@v1.3.2": [
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
        "config/crds/bases/external-secrets.io_secretstores.yaml",
    ],
    "github.com/kedacore/keda/v2@v2.21.0": [
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "config/crd/bases/keda.sh_triggerauthentications.yaml",
    ],
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": [
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ],
    "istio.io/istio@v0.0.0-20260827124520-eed52ebb66ad": [
        "manifests/charts/base/files/crd-all.gen.yaml"
    ],
    "sigs.k8s.io/gateway-api@v1.6.0": [
        "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ],
}
# What is rendered; other kinds of the same sources would only make the folder large.
KINDS = {
    "apps/v1": {"Deployment"},
    "argoproj.io/v1alpha1": {"AppProject", "Application", "ApplicationSet"},
    "autoscaling/v2": {"HorizontalPodAutoscaler"},
    "batch/v1": {"CronJob", "Job"},
    "external-secrets.io/v1": {"ExternalSecret", "SecretStore"},
    "gateway.networking.k8s.io/v1": {"Gateway", "HTTPRoute"},
    "keda.sh/v1alpha1": {"ScaledObject", "TriggerAuthentication"},
    "monitoring.coreos.com/v1": {"PodMonitor", "PrometheusRule", "ServiceMonitor"},
    "networking.istio.io/v1": {
        "DestinationRule",
        "Gateway",
        "ServiceEntry",
        "Sidecar",
        "VirtualService",
    },
    "networking.istio.io/v1alpha3": {"EnvoyFilter"},
    "networking.k8s.io/v1": {"NetworkPolicy"},
    "policy/v1": {"PodDisruptionBudget"},
    "security.istio.io/v1": {
        "AuthorizationPolicy",
        "PeerAuthentication",
        "RequestAuthentication",
    },
    "v1": {
        "ConfigMap",
        "LimitRange",
        "Namespace",
        "ResourceQuota",
        "Secret",
        "Service",
        "ServiceAccount",
    },
}


def close(node: Any, *, whole: bool = True) -> Any:
    """The schema without prose, refusing unknown keys.

    A branch of oneOf and the like (``whole`` false) names only some keys: it stays open.
    """
    if isinstance(node, list):
        return [close(one, whole=whole) for one in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string") or node.get("format") == "int-or-string":
        return {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    keep: Schema = {}
    for key, value in node.items():
        if key in ("description", "default", "title", "example") and not isinstance(value, dict):
            continue
        if key.startswith("x-") or key in ("format", "default", "nullable"):
            continue
        inside = whole and key not in ("oneOf", "anyOf", "allOf", "not")
        keep[key] = (
            {name: close(child, whole=inside) for name, child in value.items()}
            if key in ("properties", "definitions")
            else close(value, whole=inside)
        )
    if (
        whole
        and "properties" in keep
        and "additionalProperties" not in keep
        and not node.get("x-kubernetes-preserve-unknown-fields")
    ):
        keep["additionalProperties"] = False
    return keep


def with_object_keys(schema: Schema) -> Schema:
    """A CRD's schema with apiVersion, kind and metadata, and the status that nobody writes."""
    properties: Schema = dict(schema.get("properties", {}))
    properties |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    return {**schema, "properties": properties, "type": "object"}


def custom_resources(documents: Iterator[Any]) -> Iterator[tuple[str, str, Schema]]:
    """apiVersion, kind and schema of every wanted version of the CRDs."""
    for document in documents:
        if not isinstance(document, dict) or document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        for version in spec["versions"]:
            api = f"{spec['group']}/{version['name']}"
            kind = spec["names"]["kind"]
            if kind in KINDS.get(api, set()):
                yield api, kind, close(with_object_keys(version["schema"]["openAPIV3Schema"]))


def built_in(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    """apiVersion, kind and schema of the wanted kinds of one of Kubernetes' OpenAPI documents."""
    schemas: Schema = document["components"].get("schemas", {})
    for schema in schemas.values():
        for entry in schema.get("x-kubernetes-group-version-kind", []):
            api = "/".join(part for part in (entry["group"], entry["version"]) if part)
            if entry["kind"] in KINDS.get(api, set()):
                yield api, entry["kind"], standalone(schema, schemas)


def standalone(schema: Schema, schemas: Schema) -> Schema:
    """The schema with all that it refers to under ``definitions``."""
    names: set[str] = set()

    def rewrite(node: Any) -> Any:
        if isinstance(node, list):
            return [rewrite(one) for one in node]
        if not isinstance(node, dict):
            return node
        # Kubernetes writes {"allOf": [{"$ref": …}], "default": {}} for a plain reference.
        if "allOf" in node and len(node["allOf"]) == 1:
            return rewrite(node["allOf"][0])
        if isinstance(reference := node.get("$ref"), str):
            name = reference.removeprefix("#/components/schemas/")
            names.add(name)
            return {"$ref": f"#/definitions/{name}"}
        return {key: rewrite(value) for key, value in node.items()}

    result = rewrite(schema)
    definitions: Schema = {}
    while missing := names - definitions.keys():
        for name in sorted(missing):
            definitions[name] = close(rewrite(schemas[name]))
    # Quantities and times are written as text or as a number.
    for name in definitions:
        if name.endswith(".resource.Quantity"):
            definitions[name] = {"oneOf": [{"type": "string"}, {"type": "number"}]}
        if name.endswith(".intstr.IntOrString"):
            definitions[name] = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    closed: Schema = close(result)
    return {**closed, "definitions": dict(sorted(definitions.items()))}


LEAST_SHARED = 200
"""Characters from which a subschema that stands several times in a file is written once."""


def mapped(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """The schema with ``change`` made to each schema directly in it."""
    made: Schema = {}
    for key, value in schema.items():
        if key in ("properties", "definitions"):
            made[key] = {name: change(one) for name, one in value.items()}
        elif key in ("oneOf", "anyOf", "allOf"):
            made[key] = [change(one) for one in value]
        elif key in ("items", "additionalProperties", "not") and isinstance(value, dict):
            made[key] = change(value)
        else:
            made[key] = value
    return made


def shared(schema: Schema) -> Schema:
    """The same schema with its repetitions under ``definitions``, each written once.

    ApplicationSet's nests its generators: in full it is 380 KB, for which kubeconform takes longer
    than for all else that it is asked about an environment.
    """
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    definitions: Schema = {}

    def text(node: Schema) -> str:
        return json.dumps(node, sort_keys=True)

    def count(node: Schema) -> Schema:
        counts[text(node)] += 1
        return mapped(node, count) if counts[text(node)] == 1 else node

    def named(node: Schema) -> Schema:
        written = text(node)
        if counts[written] == 1 or len(written) < LEAST_SHARED:
            return mapped(node, named)
        if written not in names:
            names[written] = f"shared{len(names) + 1}"
            definitions[names[written]] = mapped(node, named)
        return {"$ref": f"#/definitions/{names[written]}"}

    mapped(schema, count)
    made = mapped(schema, named)
    return {**made, "definitions": made.get("definitions", {}) | definitions} if names else made


def module_folder(module: str) -> Path:
    """Where Go keeps a module's sources, fetched if need be."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["go", "mod", "download", "-json", module]
        answer = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return Path(json.loads(answer.stdout)["Dir"])


def sources() -> Iterator[tuple[str, str, Schema]]:
    """apiVersion, kind and schema of everything in ``KINDS``."""
    for path in sorted((module_folder(KUBERNETES) / "api/openapi-spec/v3").glob("*_openapi.json")):
        yield from built_in(json.loads(path.read_text(encoding="utf-8")))
    for module, patterns in MODULES.items():
        folder = module_folder(module)
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                text = path.read_text(encoding="utf-8")
                yield from custom_resources(yaml.load_all(text, yaml.CSafeLoader))


def main() -> int:
    """Write the schemas; fail where a wanted kind was in no source."""
    wanted = {(api, kind) for api, kinds in KINDS.items() for kind in kinds}
    for api, kind, schema in sources():
        group, _, version = api.rpartition("/")
        path = FOLDER / (group or version) / f"{kind.lower()}_{version}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(shared(schema), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
        wanted.discard((api, kind))
    for api, kind in sorted(wanted):
        sys.stderr.write(f"no source has {api} {kind}: add one to MODULES\n")
    return 1 if wanted else 0


if __name__ == "__main__":
    sys.exit(main())
