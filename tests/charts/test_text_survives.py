"""Text goes through the templates as it is: no value becomes a number, a boolean or another key.

Found that way: ``retries.retryOn: ["503"]`` rendered ``retryOn: 503``, which Istio's API refused.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.charts.rendering import DEPLOYED, ROOT, Manifest, helm, manifests
from tests.charts.test_schemas import kubeconform

# What YAML would take for something else, beside anything printable.
TRICKY = st.sampled_from(
    [
        *("503", "1e3", "0x1f", "010", "1.10", "true", "no", "null", "~", "", " ", "a: b", "- a"),
        *("'", '"', "\\", "{{ .x }}", "{a}", "[a]", "%a", "@a", "`a", "!a", "&a", "*a", "|", ">"),
        *("?", "#x", "a #b", "a:"),
    ]
)
# The Basic Multilingual Plane without controls: Helm's own YAML reader refuses some of the rest.
TEXT = TRICKY | st.text(
    st.characters(
        min_codepoint=0x20, max_codepoint=0xD7FF, exclude_categories=("Cc", "Cf", "Cn", "Zl", "Zp")
    ),
    max_size=20,
)
NAME = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["true", "null", "no", "y", "on"]
)
HEADER = st.from_regex(r"x-[a-z]{1,8}", fullmatch=True)
INSTANCE = "app.kubernetes.io/instance"
FEW = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    # Each example starts Helm: shrinking would take minutes.
    phases=[Phase.explicit, Phase.generate],
)


def _render(
    chart: str, release: str, *values: Manifest, files: tuple[Path, ...] = ()
) -> list[Manifest]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as own:
        json.dump(values[0], own, ensure_ascii=False)
        own.flush()
        answer = helm(ROOT / "charts" / chart, release, "dev", [*files, Path(own.name)])
    assert answer.returncode == 0, answer.stderr
    checked = kubeconform(answer.stdout)
    assert checked.returncode == 0, checked.stdout
    return manifests(answer.stdout)


def _one(found: list[Manifest], kind: str, name: str) -> Any:
    return next(one for one in found if one["kind"] == kind and one["metadata"]["name"] == name)


@FEW
@given(
    env=st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True), TEXT, max_size=5),
    args=st.lists(TEXT, max_size=4),
    annotations=st.dictionaries(NAME, TEXT, max_size=3),
)
def test_of_a_service(env: dict[str, str], args: list[str], annotations: dict[str, str]) -> None:
    values = {"env": env, "args": args, "podAnnotations": annotations}
    found = _render("service", "proxy", values, files=(DEPLOYED,))
    assert _one(found, "ConfigMap", "proxy")["data"] == env
    template = _one(found, "Deployment", "proxy")["spec"]["template"]
    assert template["spec"]["containers"][0].get("args", []) == args
    assert annotations.items() <= template["metadata"]["annotations"].items()


@FEW
@given(
    name=st.sampled_from(["inference", "a", "x-1"]),
    arm=NAME,
    rule=NAME,
    headers=st.dictionaries(HEADER, TEXT, min_size=1, max_size=3),
    query=st.dictionaries(NAME, TEXT, max_size=3),
    claims=st.dictionaries(NAME, TEXT, max_size=2),
    group=st.sampled_from(["proxy", "b", "y-2"]),
)
def test_of_routes(  # noqa: PLR0917
    name: str,
    arm: str,
    rule: str,
    headers: dict[str, str],
    query: dict[str, str],
    claims: dict[str, str],
    group: str,
) -> None:
    service = {
        "paths": ["/"],
        "arms": {arm: name},
        "rules": {rule: {"headers": headers, "query": query, "claims": claims, "to": name}},
        "subsets": {group: {"x": arm}},
        "retries": {"idempotent": True, "retryOn": ["503"]},
    }
    platform = {"gateway": {"verifiesTokens": True}}
    values = {"hosts": ["dev.slipway.test"], "services": {name: service}, "platform": platform}
    found = _render("routing", "routing", values)
    by_arm, by_rule, rest = _one(found, "VirtualService", "public")["spec"]["http"]
    assert by_arm["match"][0]["headers"] == {"x-slipway-arm": {"exact": arm}}
    expected = {key: {"exact": value} for key, value in headers.items()}
    expected |= {f"@request.auth.claims.{key}": {"exact": value} for key, value in claims.items()}
    assert by_rule["match"][0]["headers"] == expected
    assert by_rule["match"][0].get("queryParams", {}) == {
        key: {"exact": value} for key, value in query.items()
    }
    assert rest["route"][0]["destination"]["host"] == name
    [subset] = _one(found, "DestinationRule", f"{name}.{group}")["spec"]["subsets"]
    assert subset == {"name": group, "labels": {"x": arm}}


@FEW
@given(
    callers=st.dictionaries(NAME, st.dictionaries(st.just("paths"), st.lists(TEXT, min_size=1))),
    calls=st.sets(NAME, max_size=3),
    peer=NAME,
    namespace=NAME,
)
def test_of_connections(
    callers: dict[str, dict[str, list[str]]], calls: set[str], peer: str, namespace: str
) -> None:
    """Found: a caller named ``no`` or ``y`` was the label ``false`` or ``true``."""
    values = {
        "callers": callers,
        "calls": {name: {} for name in calls - {peer}},
        "uses": {peer: True},
        "platform": {"peers": {peer: {"namespace": namespace, "ports": ["1/TCP"]}}},
    }
    if peer in callers:
        callers.pop(peer)
    found = _render("service", "proxy", values)
    spec = _one(found, "NetworkPolicy", "proxy-connections")["spec"]
    sources = [rule["from"][0] for rule in spec.get("ingress", [])]
    assert [one["podSelector"]["matchLabels"][INSTANCE] for one in sources] == sorted(callers)
    *ends, last = [rule["to"][0] for rule in spec["egress"]]
    assert [one["podSelector"]["matchLabels"][INSTANCE] for one in ends] == sorted(calls - {peer})
    assert last["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    if callers:
        rules = _one(found, "AuthorizationPolicy", "proxy")["spec"]["rules"]
        for rule, (name, limits) in zip(rules, sorted(callers.items()), strict=True):
            principal = f"cluster.local/ns/dev/sa/{name}"
            assert rule["from"] == [{"source": {"principals": [principal]}}]
            assert rule.get("to", [{"operation": {}}]) == [{"operation": limits}]
