"""Each control is broken in turn; the checks named beside it must see it. None may survive.

A check here is the one that guards the repository (same code, same programs), pointed at a copy
with one line changed.
Each control of `sample` is broken in `make test`, every one of them in `make conformance`.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from release.validate.files.applications import of_namespace
from tests import programs
from tests.charts import test_iam
from tests.charts.admission import ApiServer
from tests.charts.connectivity import TABLE, table
from tests.charts.posture import checkov, kube_score
from tests.charts.rendering import DEPLOYED, MODEL, ROOT, helm, namespace


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line of one file, changed; ``new`` None removes the file."""

    control: str
    file: str
    old: str
    new: str | None
    caught_by: tuple[str, ...]


SERVICE = "charts/service/templates"
ENVIRONMENT = "charts/environment/templates"
ROUTING = "charts/routing/templates"

# The schema of `callers.<name>.ports` up to its fewest items.
_CALLERS_PORTS = """"description": "Only these ports; all of `ports` where none is named.",
            "type": "array",
            "items": {
              "$ref": "#/$defs/port"
            },
            "minItems": """

MUTATIONS = (
    Mutation(
        "mutual TLS is not strict",
        f"{ENVIRONMENT}/peerauthentication.yaml",
        "mode: STRICT",
        "mode: PERMISSIVE",
        ("unit",),
    ),
    Mutation(
        "no PeerAuthentication at all",
        f"{ENVIRONMENT}/peerauthentication.yaml",
        "",
        None,
        ("unit",),
    ),
    Mutation(
        "everybody may call",
        f"{ENVIRONMENT}/authorizationpolicy-allow-nothing.yaml",
        "spec: {}",
        "spec: {rules: [{}]}",
        ("unit",),
    ),
    Mutation(
        "the gateway may ask for metrics",
        "values/services/proxy/service.yaml",
        "gateway: {notPaths: [/metrics, /livez, /readyz]}",
        "gateway: {}",
        ("unit",),
    ),
    Mutation(
        "requests need no token", f"{ROUTING}/authorizationpolicy-jwt.yaml", "", None, ("unit",)
    ),
    Mutation(
        "any verified token will do",
        f"{ROUTING}/authorizationpolicy-jwt.yaml",
        'notRequestPrincipals: [{{ printf "%s/*" .issuer | quote }}]',
        'notRequestPrincipals: ["*"]',
        ("unit",),
    ),
    Mutation(
        "a token for another environment will do",
        f"{ROUTING}/requestauthentication.yaml",
        "      audiences: {{- toYaml . | nindent 8 }}\n",
        "",
        ("unit",),
    ),
    Mutation(
        "a token is asked of others than the gateway's callers",
        f"{ROUTING}/authorizationpolicy-jwt.yaml",
        'include "routing.gatewayPrincipal" $ | quote',
        '"cluster.local/ns/nobody/sa/nobody" | quote',
        ("unit",),
    ),
    Mutation(
        "nobody verifies tokens", f"{ROUTING}/requestauthentication.yaml", "", None, ("unit",)
    ),
    Mutation(
        "callers speak plain text",
        f"{ROUTING}/destinationrule.yaml",
        'ternary "DISABLE" "ISTIO_MUTUAL" $plain',
        'ternary "DISABLE" "DISABLE" $plain',
        ("unit",),
    ),
    Mutation(
        "rate limits are counted, not kept",
        f"{ROUTING}/envoyfilter-ratelimit.yaml",
        "filter_enforced: {default_value: {numerator: 100,",
        "filter_enforced: {default_value: {numerator: 0,",
        ("unit",),
    ),
    Mutation("no rate limit", f"{ROUTING}/envoyfilter-ratelimit.yaml", "", None, ("unit",)),
    Mutation(
        "default-deny lets everything in",
        f"{ENVIRONMENT}/networkpolicy-default-deny.yaml",
        "policyTypes: [Ingress, Egress]",
        "policyTypes: [Ingress, Egress]\n  ingress: [{}]",
        ("unit", "connectivity"),
    ),
    Mutation(
        "default-deny lets everything out",
        f"{ENVIRONMENT}/networkpolicy-default-deny.yaml",
        "policyTypes: [Ingress, Egress]",
        "policyTypes: [Ingress]",
        # Not by connectivity: `everyone`, which selects every pod, closes the way out as well.
        ("unit",),
    ),
    Mutation(
        "no default-deny",
        f"{ENVIRONMENT}/networkpolicy-default-deny.yaml",
        "",
        None,
        ("unit", "connectivity"),
    ),
    Mutation(
        "the extractor may reach any address",
        "values/services/unzip/service.yaml",
        "uses: {s3: true}",
        "uses: {s3: true, world: true}",
        ("connectivity",),
    ),
    Mutation(
        "sidecars let unknown hosts through",
        f"{ENVIRONMENT}/sidecar.yaml",
        "REGISTRY_ONLY",
        "ALLOW_ANY",
        ("unit",),
    ),
    Mutation(
        "the namespace enforces nothing",
        "argocd/projects/dev.yaml",
        "    pod-security.kubernetes.io/enforce: restricted\n",
        "",
        ("layout",),
    ),
    Mutation(
        "pods stay out of the mesh",
        "argocd/projects/dev.yaml",
        "    istio-injection: enabled",
        "    istio-injection: disabled",
        ("layout",),
    ),
    Mutation(
        "a release is in no mesh",
        "values/services/proxy/service.yaml",
        "component: gateway\n",
        "component: gateway\nsidecar: {inject: false}\n",
        ("unit",),
    ),
    Mutation(
        "releases are in no mesh unless told",
        "charts/service/values.yaml",
        "  inject: true",
        "  inject: false",
        ("unit",),
    ),
    Mutation(
        "a caller without ports may use all of them",
        "charts/service/values.schema.json",
        f"{_CALLERS_PORTS}1",
        f"{_CALLERS_PORTS}0",
        ("unit",),
    ),
    Mutation(
        "a peer without ports may be asked at all of them",
        f"{ENVIRONMENT}/_helpers.tpl",
        "{{- else if not $peer.ports -}}",
        "{{- else if false -}}",
        ("unit",),
    ),
    Mutation(
        "a used peer without ports may be asked at all of them",
        f"{SERVICE}/networkpolicy.yaml",
        "{{- if not $peer.ports }}",
        "{{- if false }}",
        ("unit",),
    ),
    Mutation(
        "a caller that was taken away may call",
        f"{SERVICE}/_peers.tpl",
        '{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "false")) }}',
        "{{- if true }}",
        ("unit",),
    ),
    Mutation(
        "any identity may call a release that lists its callers",
        f"{SERVICE}/_peers.tpl",
        '{{- printf "%s/ns/%s/sa/%s" $trust .root.Release.Namespace .name -}}',
        '"*"',
        ("unit",),
    ),
    Mutation(
        "a release's callers may ask every path",
        f"{SERVICE}/authorizationpolicy.yaml",
        '{{ $operation = pick $limits "paths" "notPaths" "methods" }}',
        "",
        ("unit",),
    ),
    Mutation("no limits by default", f"{ENVIRONMENT}/limitrange.yaml", "", None, ("unit",)),
    Mutation(
        "containers that say nothing have no limit",
        f"{ENVIRONMENT}/limitrange.yaml",
        "      default: {{- toYaml .Values.limits.limits | nindent 8 }}\n",
        "",
        ("unit",),
    ),
    Mutation(
        "the default account has a token",
        f"{ENVIRONMENT}/serviceaccount-default.yaml",
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        ("unit",),
    ),
    Mutation(
        "runs of a CronJob meet each other",
        "charts/service/values.yaml",
        'concurrencyPolicy: "Forbid"',
        'concurrencyPolicy: "Allow"',
        ("unit",),
    ),
    Mutation(
        "a CronJob's policy is not looked at",
        f"{SERVICE}/cronjob.yaml",
        "  concurrencyPolicy: {{ .concurrencyPolicy }}\n",
        "",
        ("unit",),
    ),
    Mutation("no quota", f"{ENVIRONMENT}/resourcequota.yaml", "", None, ("unit",)),
    Mutation(
        "pods run as root",
        f"{SERVICE}/_pod.tpl",
        "runAsNonRoot: true\n    runAsUser: 65532",
        "runAsNonRoot: false\n    runAsUser: 0",
        ("unit", "kube-score", "checkov", "admission"),
    ),
    Mutation(
        "containers may gain privileges",
        f"{SERVICE}/_pod.tpl",
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
        ("unit", "checkov", "admission"),
    ),
    Mutation(
        "containers keep their capabilities",
        f"{SERVICE}/_pod.tpl",
        "capabilities: {drop: [ALL]}",
        "capabilities: {}",
        ("unit", "checkov", "admission"),
    ),
    Mutation(
        "no seccomp profile",
        f"{SERVICE}/_pod.tpl",
        "seccompProfile: {type: RuntimeDefault}",
        "seccompProfile: {type: Unconfined}",
        ("unit", "checkov", "admission"),
    ),
    Mutation(
        "the root is writable",
        f"{SERVICE}/_pod.tpl",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        ("unit", "kube-score", "checkov"),
    ),
    Mutation(
        "pods carry a token for the API",
        f"{SERVICE}/_pod.tpl",
        "automountServiceAccountToken: {{ .Values.serviceAccount.token }}",
        "automountServiceAccountToken: true",
        ("unit", "checkov"),
    ),
    Mutation(
        "no limits",
        f"{SERVICE}/_pod.tpl",
        "  limits: {{- toYaml .Values.resources.limits | nindent 4 }}\n",
        "",
        ("unit", "kube-score", "checkov"),
    ),
    Mutation(
        "no probes",
        f"{SERVICE}/_pod.tpl",
        'list "startup" "readiness" "liveness"',
        'list "startup"',
        ("unit", "kube-score", "checkov"),
    ),
    Mutation(
        "no PodDisruptionBudget",
        f"{SERVICE}/poddisruptionbudget.yaml",
        "",
        None,
        ("unit", "kube-score"),
    ),
    Mutation(
        "the tag decides",
        f"{SERVICE}/_helpers.tpl",
        'printf "%s:%s@%s" .Values.image.repository .Values.image.tag .Values.image.digest',
        'printf "%s:%s" .Values.image.repository .Values.image.tag',
        ("unit", "checkov"),
    ),
    Mutation(
        "retries double writes",
        f"{ROUTING}/_helpers.tpl",
        'default (list "connect-failure"',
        'default (list "503" "connect-failure"',
        ("unit",),
    ),
    Mutation(
        "the schema takes any key",
        "charts/service/values.schema.json",
        '  "additionalProperties": false,\n  "properties": {\n    "kind"',
        '  "additionalProperties": true,\n  "properties": {\n    "kind"',
        ("unit", "bad-input"),
    ),
    Mutation(
        "an IAM action is widened",
        "docs/aws/iam/inference.json",
        '"s3:GetObject"',
        '"s3:*"',
        ("iam",),
    ),
    Mutation(
        "an IAM resource is widened",
        "docs/aws/iam/unzip.json",
        "arn:aws:s3:::your-archives/*",
        "arn:aws:s3:::*",
        ("iam",),
    ),
)


def sample() -> list[Mutation]:
    """The first mutation of each part of the repository that each check guards."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for mutation in MUTATIONS:
        new = {(name, *mutation.file.split("/")[:2]) for name in mutation.caught_by} - seen
        if new:
            seen |= new
            found.append(mutation)
    return found


IGNORED = shutil.ignore_patterns("schemas", "__pycache__", "*.py")


def copy_of_the_repository(folder: Path, mutation: Mutation | None) -> Path:
    """What the checks look at, with one control broken."""
    for name in ("charts", "values", "argocd", "docs/aws"):
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    if mutation is None:
        return folder
    path = folder / mutation.file
    if mutation.new is None:
        path.unlink()
        return folder
    text = path.read_text(encoding="utf-8")
    assert mutation.old in text, f"{mutation.file} no longer has {mutation.old!r}"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    if "world" in mutation.new:
        peers = folder / "values/platform/one-machine.yaml"
        world = "  peers:\n    world: {cidrs: [0.0.0.0/0], ports: [443/TCP]}\n"
        text = peers.read_text(encoding="utf-8")
        peers.write_text(text.replace("  peers:\n", world), encoding="utf-8")
    return folder


def workloads(copy: Path, *, alone: bool = False) -> str:
    """A Deployment with all that a service can have and, unless alone, its environment."""
    values = copy / "values"
    platform = values / "platform/one-machine.yaml"
    environment = helm(copy / "charts/environment", "environment", "mutant", [platform])
    inference = helm(
        copy / "charts/service",
        "inference",
        "mutant",
        [
            platform,
            values / "services/inference/service.yaml",
            values / "prod/inference.yaml",
            DEPLOYED,
            MODEL,
        ],
    )
    assert inference.returncode == 0, inference.stderr
    if alone:
        return inference.stdout
    return "\n---\n".join((namespace("prod", "mutant", copy), environment.stdout, inference.stdout))


@pytest.fixture(scope="session")
def checkov_findings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """checkov's findings about every mutant here that names it, and about none: one run for all."""
    asked = {item.name for item in request.session.items}
    named: list[Mutation | None] = [
        one
        for one in MUTATIONS
        if "checkov" in one.caught_by and any(name.endswith(f"[{one.control}]") for name in asked)
    ]
    folder = tmp_path_factory.mktemp("checkov")
    for number, mutation in enumerate([*named, None]):
        copy = copy_of_the_repository(tmp_path_factory.mktemp("copy"), mutation)
        text = workloads(copy, alone=True).replace("mutant", f"mutant-{number}")
        (folder / f"{number}.yaml").write_text(text, encoding="utf-8")
    found = checkov(folder)
    return {
        mutation.control if mutation else "": [
            one for one in found if f".mutant-{number}." in one.partition(":")[0]
        ]
        for number, mutation in enumerate([*named, None])
    }


CASES = [
    pytest.param(
        one,
        id=one.control if one else "nothing is broken",
        marks=() if one in sample() else pytest.mark.conformance,
    )
    for one in (None, *MUTATIONS)
]


@pytest.mark.parametrize("mutation", CASES)
def test_broken_control_is_caught(
    mutation: Mutation | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    copy = copy_of_the_repository(tmp_path, mutation)
    charts = {"environment", "routing", "service"}
    if mutation and mutation.file.startswith("charts/"):
        charts = {mutation.file.split("/")[1]}
    every = ("unit", "connectivity", "kube-score", "checkov", "admission", "bad-input", "iam")
    for name in mutation.caught_by if mutation else every:
        if name == "unit":
            caught = unit_suites_fail(copy, charts)
        elif name == "layout":
            caught = list(of_namespace(copy, "dev")) != []
        elif name == "connectivity":
            caught = table(copy) != TABLE.read_text(encoding="utf-8")
        elif name == "kube-score":
            caught = kube_score(workloads(copy)) != []
        elif name == "checkov":
            findings = request.getfixturevalue("checkov_findings")
            caught = findings[mutation.control if mutation else ""] != []
        elif name == "admission":
            server: ApiServer = request.getfixturevalue("server")
            caught = server.admit(workloads(copy)) != ""
        elif name == "bad-input":
            values = ROOT / "tests/fixtures/invalid/misspelt-value.yaml"
            caught = helm(copy / "charts/service", "proxy", "dev", [values]).returncode == 0
        else:
            policies = (copy / "docs/aws/iam").glob("*.json")
            caught = any(test_iam.too_wide(path) for path in policies)
        assert caught is (mutation is not None), f"{name}: {mutation or 'nothing is broken'}"


def unit_suites_fail(copy: Path, charts: set[str]) -> bool:
    """Whether helm-unittest's suites see it."""
    command = [programs.require("helm-unittest"), "--strict", "--failfast"]
    command += [str(copy / "charts" / name) for name in sorted(charts)]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0
