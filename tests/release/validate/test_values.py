"""`release validate` on values that render well and hurt users: one fault, one finding."""

# ruff: noqa: E501 - one fault stands on one line
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release import validate
from release.render.helm import environments
from release.validate.files import duplicates, listing
from release.validate.network import addresses, egress
from release.validate.settings import variables
from tests.programs import require
from tests.release.broken_values import ROOT, added, copied, found, replaced


@pytest.fixture(scope="module", autouse=True)
def helm() -> None:
    require("helm")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copied(tmp_path)


Change = Callable[[Path], object]
PROXY = "values/services/proxy/service.yaml"
FAULTS: dict[str, tuple[Change, str, str, str]] = {
    # name: what is done, then file:line: key, words of the message, words of the fix
    "a letter is wrong in an address": (
        lambda r: replaced(r, PROXY, "http://inference:", "http://inferenc:"),
        "values/services/proxy/service.yaml:6: env.PROXY_BACKENDS.inference.url",
        "leads to inferenc:8080, and 'inferenc' is no Service of the environment",
        "did you mean inference?",
    ),
    "a full name in the wrong namespace": (
        lambda r: replaced(r, "values/dev/worker.yaml", "redis.slipway-system", "redis.slipway-sytem"),
        "values/dev/worker.yaml:5: env.PROXY_REDIS_URL",
        "'slipway-sytem' is no namespace that the environment knows",
        "did you mean slipway-system?",
    ),
    "a name with .svc that leads nowhere": (
        lambda r: added(r, "values/dev/unzip.yaml", "  UNZIP_BACKEND_URL: http://proxi.dev.svc.cluster.local:8080/x\n"),
        "values/dev/unzip.yaml:4: env.UNZIP_BACKEND_URL",
        "'proxi' is no Service of the environment",
        "did you mean proxy?",
    ),
    "a port that the Service does not have": (
        lambda r: replaced(r, PROXY, "inference:8080", "inference:8000"),
        "values/services/proxy/service.yaml:6: env.PROXY_BACKENDS.inference.url",
        "the Service inference has the ports 8080, 8081",
        "name one of those",
    ),
    "TLS where the mesh speaks it already": (
        lambda r: replaced(r, PROXY, "http://inference", "https://inference"),
        "values/services/proxy/service.yaml:6: env.PROXY_BACKENDS.inference.url",
        "asks inference:8080 for TLS, and the port 'http' of the Service inference has none",
        "write it without",
    ),
    "an address that no NetworkPolicy allows": (
        lambda r: added(r, "values/dev/unzip.yaml", "  UNZIP_BACKEND_URL: http://proxy:8080/done\n"),
        "values/dev/unzip.yaml:4: env.UNZIP_BACKEND_URL",
        "no NetworkPolicy lets unzip connect to port 8080 of proxy",
        "`proxy: {}` under calls in values/services/unzip/service.yaml",
    ),
    "an address of another namespace that no NetworkPolicy allows": (
        lambda r: added(r, "values/dev/proxy.yaml", "uses: {redis: false}\n"),
        "values/dev/proxy.yaml:5: env.PROXY_REDIS_URL",
        "no NetworkPolicy lets proxy connect to port 6379 of redis in slipway-system",
        "`redis: true` under uses in values/dev/proxy.yaml:6",
    ),
    "replicas beyond the quota": (
        lambda r: replaced(r, "values/dev/inference.yaml", "replicas: 1", "replicas: 60"),
        "values/dev/inference.yaml:1: replicas",
        "60 pods of inference and those of the other releases ask for 63488Mi of limits.memory",
        "lower replicas, or raise quota",
    ),
    "a scaler that may grow beyond the quota": (
        lambda r: [
            replaced(r, "values/dev/inference.yaml", "replicas: 1", "replicas: null"),
            added(r, "values/dev/inference.yaml", "autoscaling: {enabled: true, maxReplicas: 40}\n"),
        ],
        "values/dev/inference.yaml:3: autoscaling.maxReplicas",
        "40 pods, the most that inference may grow to",
        "lower autoscaling.maxReplicas",
    ),
    "a number set to a word": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_TIMEOUT_SECONDS: often\n"),
        "values/dev/proxy.yaml:6: env.PROXY_TIMEOUT_SECONDS",
        "is 'often', and it takes a number",
        "see docs/reference/settings-proxy.md",
    ),
    "a number out of its limits": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_RETRY_RATIO: \"7\"\n"),
        "values/dev/proxy.yaml:6: env.PROXY_RETRY_RATIO",
        "is '7', and it must be at most 1",
        "",
    ),
    "a misspelt key in one field that an environment sets": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_BACKENDS: {inference: {timeot_seconds: 5}}\n"),
        "values/dev/proxy.yaml:6: env.PROXY_BACKENDS.inference.timeot_seconds",
        "inference: has the key 'timeot_seconds', which nothing reads",
        "did you mean 'timeout_seconds'?",
    ),
    "JSON that is none": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_UPSTREAMS: '{\"a\": }'\n"),
        "values/dev/proxy.yaml:6: env.PROXY_UPSTREAMS",
        "which is no JSON",
        "",
    ),
    "a misspelt key in nested JSON": (
        lambda r: replaced(r, PROXY, "type: http", "tpye: http"),
        "values/services/proxy/service.yaml:6: env.PROXY_BACKENDS.inference.tpye",
        "inference: has the key 'tpye', which nothing reads",
        "did you mean 'type'?",
    ),
    "a misspelt key deeper in nested JSON": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_UPSTREAMS: '{\"a\": {\"url\": \"http://inference:8080\", \"methds\": []}}'\n"),
        "values/dev/proxy.yaml:6: env.PROXY_UPSTREAMS",
        "a: has the key 'methds', which nothing reads",
        "did you mean 'methods'?",
    ),
    "a key that nested JSON lacks": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_UPSTREAMS: '{\"a\": {}}'\n"),
        "values/dev/proxy.yaml:6: env.PROXY_UPSTREAMS",
        "a: lacks the key 'url'",
        "add 'url'",
    ),
    "a word for a number in nested JSON": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_UPSTREAMS: '{\"a\": {\"url\": \"http://inference:8080\", \"max_concurrency\": \"often\"}}'\n"),
        "values/dev/proxy.yaml:6: env.PROXY_UPSTREAMS",
        "a.max_concurrency: 'often' is not of type 'integer'",
        "see docs/reference/settings-proxy.md",
    ),
    "a wrong name in the stores' namespace": (
        lambda r: replaced(r, "values/dev/worker.yaml", "redis.slipway-system", "redsi.slipway-system"),
        "values/dev/worker.yaml:5: env.PROXY_REDIS_URL",
        "slipway-system has the Services redis, s3",
        "did you mean redis.slipway-system?",
    ),
    "a host outside with a scheme": (
        lambda r: added(r, "values/dev/environment.yaml", "egressHosts: {api: {hosts: [\"https://api.example.com/v1\"]}}\n"),
        "values/dev/environment.yaml:2: egressHosts.api.hosts",
        "a host has no scheme, port or path",
        "write api.example.com, and the port under port",
    ),
    "backends of proxy and worker that differ": (
        lambda r: added(r, "values/dev/worker.yaml", "  PROXY_BACKENDS: '{}'\n"),
        "values/dev/worker.yaml:6: env.PROXY_BACKENDS",
        "differs from that of proxy, which shares its work",
        "set the same for both",
    ),
    "another Redis for the worker": (
        lambda r: replaced(r, "values/dev/worker.yaml", "6379/0", "6379/7"),
        "values/dev/worker.yaml:5: env.PROXY_REDIS_URL",
        "differs from that of proxy",
        "set the same for both",
    ),
    "a callers row in services for a service that only dev has": (
        lambda r: [
            replaced(r, "values/services/inference/service.yaml", "  worker: {ports: [8080/TCP]}\n", "  worker: {ports: [8080/TCP]}\n  trainer: {}\n"),
            replaced(r, "argocd/environments/dev.yaml", "          - {release: unzip, chart: service}\n", "          - {release: unzip, chart: service}\n          - {release: trainer, chart: service}\n"),
        ],
        "values/services/inference/service.yaml:14: callers.trainer",
        "names 'trainer', which the environment does not have, only dev (stage/inference)",
        "move the row to values/dev/inference.yaml",
    ),
    "routes in services for a service that only dev has": (
        lambda r: [
            added(r, "values/services/inference/routes.yaml", "  challenger: {}\n"),
            replaced(r, "argocd/environments/dev.yaml", "          - {release: unzip, chart: service}\n", "          - {release: unzip, chart: service}\n          - {release: challenger, chart: service}\n"),
        ],
        "values/services/inference/routes.yaml:4: services.challenger",
        "names the host 'challenger', which is no Service of the environment, only of dev (stage/routing)",
        "move services.challenger to values/dev/",
    ),
    "a key twice in one file": (
        lambda r: added(r, "values/dev/inference.yaml", "replicas: 2\n"),
        "values/dev/inference.yaml:3: replicas",
        "stands 2 times, on the lines 1 and 3: Helm takes the last one",
        "keep one",
    ),
    "a model twice in one JSON": (
        lambda r: added(r, "values/dev/proxy.yaml", "  PROXY_UPSTREAMS: '{\"a\": {\"url\": \"http://inference:8080\"}, \"a\": {\"url\": \"http://inference:8080\"}}'\n"),
        "values/dev/proxy.yaml:6: env.PROXY_UPSTREAMS",
        "has the key 'a' twice",
        "keep one 'a'",
    ),
    "a merge that took a setting away": (
        # Found: two `env` of one file; PROXY_REDIS_URL vanished with no finding.
        lambda r: replaced(r, "values/dev/worker.yaml", "  PROXY_REDIS_URL: redis://redis.slipway-system:6379/0\n", ""),
        "values/dev/worker.image.yaml:0: env.PROXY_REDIS_URL",
        "is set by no file (values/platform/one-machine.yaml, values/services/proxy/service.yaml, values/services/worker/service.yaml, values/dev/worker.yaml, values/dev/worker.image.yaml), and proxy worker does not start without it",
        "set env.PROXY_REDIS_URL in values/dev/worker.yaml",
    ),
    "a service without a model": (
        lambda r: (r / "values/dev/inference.models.yaml").unlink(),
        "values/services/inference/service.yaml:5: modelFetch.enabled",
        "runs no pods: modelFetch.enabled is set and no file sets its models",
        "add values/dev/inference.models.yaml",
    ),
    "a service without an image": (
        lambda r: (r / "values/dev/proxy.image.yaml").unlink(),
        "values/dev/proxy.yaml:0: image",
        "runs no pods: no file sets its image, values/dev/proxy.image.yaml is not there",
        "four values empty",
    ),
}  # fmt: skip
IN_STAGE = {
    "a callers row in services for a service that only dev has",
    "routes in services for a service that only dev has",
}


def test_the_shipped_values_have_no_findings(root: Path) -> None:
    assert found(root) == []


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_one_finding_with_its_place_and_fix(root: Path, name: str) -> None:
    change, place, words, fix = FAULTS[name]
    change(root)
    told = found(root, "stage" if name in IN_STAGE else "dev")
    texts = [str(one) for one in told]
    places = [f"{one.file}:{one.line}: {one.key}" for one in told]
    assert places == [place], texts
    [one] = texts
    assert words in one
    assert fix in one.partition(" Fix: ")[2]


def test_one_fault_in_three_environments_is_one_finding(root: Path) -> None:
    """Found: a wrong letter in what all share was told once per environment."""
    require("kubeconform")
    replaced(root, PROXY, "http://inference:", "http://inferenc:")
    [told] = validate.validate(root).findings
    names = [f"{one}/{name}" for one in ("dev", "prod", "stage") for name in ("proxy", "worker")]
    assert (told.file, told.releases) == (PROXY, tuple(names))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("values/dev/routing.yaml", "services: {proxy: {timeout: 30}}\n"),
        ("values/dev/environment.yaml", "quota: [1]\n"),
    ],
)
def test_policies_that_could_not_be_rendered_are_not_missed(
    root: Path, path: str, text: str
) -> None:
    """Found: two findings more asked for rows that were there."""
    require("kubeconform")
    (root / path).write_text(text)
    told = [str(one) for one in validate.validate(root, ["dev"]).findings]
    assert len(told) == 1, told
    assert path in told[0]


def test_a_release_that_cannot_be_rendered_is_no_three_findings(root: Path) -> None:
    """Found: its routes and its callers' addresses were findings, too."""
    require("kubeconform")
    added(root, "values/dev/inference.yaml", "resorces: {}\n")
    told = validate.validate(root, ["dev"]).findings
    assert [one.key for one in told] == ["resorces"], [str(one) for one in told]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://inference:8080/v2", [("inference", 8080)]),
        ("https://a.dev.svc", [("a.dev.svc", 443)]),
        ("redis://:secret@redis.slipway-system:6379/0", [("redis.slipway-system", 6379)]),
        ("rediss://r.example.org", [("r.example.org", 6379)]),
        ("nats://one:4222,nats://two:4222", [("one", 4222), ("two", 4222)]),
        ("redis.slipway-system:6379", [("redis.slipway-system", 6379)]),
        ("s3://models/digits/1", []),
        ("http://127.0.0.1:8080 and http://[::1]:8080 and http://localhost:1", []),
        ("http://host:port", []),
        ("12:30", []),
        ("spiffe://cluster.local/ns/dev/sa/proxy", []),
        ("https://*.example.org", []),
        ("HTTP://Proxy.:8080", [("proxy", 8080)]),
    ],
)  # fmt: skip
def test_addresses_in_a_text(text: str, expected: list[tuple[str, int]]) -> None:
    assert [(one.host, one.port) for one in addresses.in_text(text)] == expected


@given(st.text())
def test_no_text_breaks_the_search_for_addresses(text: str) -> None:
    addresses.in_text(text)
    list(duplicates.of_file("x.yaml", text))


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8))
def test_exactly_the_keys_that_stand_twice_are_found(keys: list[str]) -> None:
    text = "".join(f"{key}: 1\n" for key in keys)
    told = {one.key for one in duplicates.of_file("x.yaml", text)}
    assert told == {key for key in keys if keys.count(key) > 1}


def test_keys_of_different_mappings_are_no_duplicates() -> None:
    text = "a: {x: 1}\nb: {x: 1}\nc:\n  - x: 1\n  - x: 2\n"
    assert list(duplicates.of_file("x.yaml", text)) == []


@pytest.mark.parametrize(
    ("kind", "text", "accepted"),
    [
        ("integer", "5", True), ("integer", "5.5", False), ("integer", "often", False),
        ("number", "0.5", True), ("number", "", False), ("boolean", "True", True),
        ("boolean", "maybe", False), ("JSON list", "[]", True), ("JSON list", "{}", False),
        ("JSON object", "{}", True), ("JSON RateLimit or null", "null", True),
        ("JSON RateLimit or null", "[]", False), ("number or string", "auto", True),
        ("one of `all`, `off`", "all", True), ("one of `all`, `off`", "none", False),
        ("string", "whatever", True),
    ],
)  # fmt: skip
def test_a_value_fits_the_type_of_its_setting(kind: str, text: str, accepted: bool) -> None:
    assert (variables.refusal(variables.Setting("X", kind), text) == "") is accepted


def test_the_reference_says_what_validate_needs() -> None:
    settings, notes = variables.read(ROOT)
    assert notes == []
    redis = settings["proxy"]["PROXY_REDIS_URL"]
    assert redis.needed_by == ("worker",)
    assert redis.shared
    rows: list[dict[str, Any]] = json.loads(
        (ROOT / "docs/reference/settings-proxy.json").read_text()
    )["settings"]
    assert any(row.get("limits") == {"minimum": 0, "maximum": 1} for row in rows)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("api.example.com", None),
        ("*.s3.eu-central-1.amazonaws.com", None),
        ("xn--9t4b11yi5a.com", None),
        ("API.example.com", "lower case"),
        ("10.0.0.7", "an address"),
        ("[fd00::1]", "an address"),
        ("api.example.com:443", "no scheme, port or path"),
        ("https://api.example.com", "no scheme, port or path"),
        ("proxy", "a Service of the cluster"),
        ("proxy.dev.svc.cluster.local", "a Service of the cluster"),
        ("api", "no name of a host"),
        ("api.*.com", "no name of a host"),
        ("*", "no name of a host"),
        ("api example.com", "no name of a host"),
        ("-a.example.com", "no name of a host"),
        ("api..com", "no name of a host"),
    ],
)  # fmt: skip
def test_a_host_outside_is_a_name_that_can_be_right(host: str, said: str | None) -> None:
    wrong = egress.refusal(host, {"proxy"})
    assert (wrong is None) == (said is None), wrong
    assert wrong is None or (said or "") in wrong[0]


@pytest.mark.parametrize(
    "pattern",
    ['exclude: "{platform/*,root.yaml,environments/stage.yaml}"', 'include: "environments/[dp]*"'],
)
def test_the_root_that_leaves_an_environment_out_is_found(root: Path, pattern: str) -> None:
    """Found: 0 findings for an environment that nothing deploys."""
    require("kubeconform")
    replaced(root, "argocd/root.yaml", 'exclude: "{platform/*,root.yaml}"', pattern)
    every = validate.validate(root).findings
    assert {one.file for one in every} == {"argocd/root.yaml"}, [str(one) for one in every]
    told = next(one for one in every if "environments/stage.yaml" in one.message)
    assert "nobody deploys the environment 'stage'" in told.message
    assert str((root / "values" / "stage").resolve()) in told.message, "which clone it is"
    assert told.line


def test_a_pattern_that_argo_cd_s_library_gets_wrong_is_found(root: Path) -> None:
    """Found: {projects/*,environments/*}.yaml was matched by projects/prod.yaml, not by dev's."""
    pattern = 'include: "{projects/*,environments/*,notifications}.yaml"'
    replaced(root, "argocd/root.yaml", 'exclude: "{platform/*,root.yaml}"', pattern)
    [told] = listing.of_root(root, environments(root))
    assert told.key == "spec.source.directory.include"
    assert "only where they are of one length" in told.message


def test_the_project_that_leaves_an_environment_out_is_found(root: Path) -> None:
    require("kubeconform")
    row = "    - {server: https://kubernetes.default.svc, namespace: stage}\n"
    replaced(root, "argocd/projects/stage.yaml", row, row.replace("stage", "elsewhere"))
    told = validate.validate(root).findings
    assert [one.file for one in told] == ["argocd/projects/stage.yaml"], [str(one) for one in told]
    assert "does not allow the namespace 'stage'" in told[0].message


@pytest.mark.parametrize("destination", ["'*'", "prod", "p*"])
def test_the_project_that_lets_an_environment_into_another_one_is_found(
    root: Path, destination: str
) -> None:
    """Found: values of dev made a ConfigMap, a policy and Namespace labels in prod."""
    own = "    - {server: https://kubernetes.default.svc, namespace: dev}\n"
    more = own.replace("namespace: dev", f"namespace: {destination}")
    replaced(root, "argocd/projects/dev.yaml", own, own + more)
    told = list(listing.of_root(root, environments(root)))
    assert {one.file for one in told} == {"argocd/projects/dev.yaml"}, [str(one) for one in told]
    assert any("values of dev may make objects in prod" in one.message for one in told)


def test_the_root_that_does_not_look_into_folders_is_found(root: Path) -> None:
    replaced(root, "argocd/root.yaml", "      recurse: true\n", "")
    [told] = listing.of_root(root, environments(root))
    assert (told.file, told.key) == ("argocd/root.yaml", "spec.source.directory.recurse")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.yaml", ["*.yaml"]),
        ("{a, b}.yaml", ["a.yaml", "b.yaml"]),
        ("{a,{b,c}d}.yaml", ["a.yaml", "bd.yaml", "cd.yaml"]),
        ("{a", ["{a"]),
    ],
)  # fmt: skip
def test_braces_of_a_pattern_are_alternatives(pattern: str, expected: list[str]) -> None:
    assert sorted(listing.alternatives(pattern)) == expected


def test_a_service_without_a_model_is_told_as_that_by_the_whole_command(root: Path) -> None:
    """Found: "Service selects no pods: make its labels those of a release", and two more."""
    require("kubeconform")
    (root / "values/dev/inference.models.yaml").unlink()
    told = validate.validate(root, ["dev"]).findings
    assert len(told) == 1, [str(one) for one in told]
    assert "no file sets its models" in told[0].message
    assert "selects no pods" not in str(told[0])
