"""Amounts that Kubernetes refuses or that nobody means: `release validate` says so, once each."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release import validate
from release.errors import NotFoundError
from release.render import merged_values
from release.render.helm import Manifest, Release
from release.validate import run
from release.validate.environment import Environment
from release.validate.findings import Finding, merged
from release.validate.workloads import quantities, quota
from tests.programs import require
from tests.release.broken_values import ROOT, added, copied, found, replaced

ENVIRONMENT, INFERENCE = "values/dev/environment.yaml", "values/dev/inference.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    require("helm")
    return copied(tmp_path)


# What stands in the file, the finding's key, words of its message and of its fix.
AMOUNTS = [
    ("limits: {memory: 768MB}", "limits.memory", "'768MB', which is no", "did you mean 768Mi?"),
    ("limits: {memory: 768mb}", "limits.memory", "'768mb', which is no", "did you mean 768Mi?"),
    ("limits: {memory: 1 Gi}", "limits.memory", "'1 Gi', which is no", "did you mean 1Gi?"),
    ("limits: {memory: 1gi}", "limits.memory", "'1gi', which is no", "did you mean 1Gi?"),
    ("limits: {memory: lots}", "limits.memory", "'lots', which is no", "one of m, k, M"),
    ("limits: {memory: -1Gi}", "limits.memory", "at least 0", "without the sign"),
    ("limits: {memory: 768m}", "limits.memory", "a fraction of a byte", "did you mean 768Mi?"),
    ("limits: {memory: 768}", "limits.memory", "which is 768 bytes", "did you mean 768Mi?"),
    ("requests: {memory: 2Gi}", "requests.memory", "above its limit of 768Mi", "raise resources."),
    ("requests: {cpu: 5000}", "requests.cpu", "which is 5000 cores", "did you mean 5000m?"),
    ("requests: {cpu: 250Mi}", "requests.cpu", "which is 262144000 cores", "did you mean 250m?"),
    ("limits: {nvidia.com/gpu: '0.5'}", "limits.nvidia.com/gpu", "an integer", "an integer"),
    ("limits: {memroy: 1Gi}", "limits.memroy", "is no resource of", "did you mean memory?"),
]


@pytest.mark.parametrize(("text", "key", "message", "fix"), AMOUNTS, ids=[a[0] for a in AMOUNTS])
def test_an_amount_that_cannot_be_meant_is_one_finding(
    tmp_path: Path, text: str, key: str, message: str, fix: str
) -> None:
    """Found: `768MB` ended the command with a traceback, and `768` had no finding."""
    added(tmp_path, "inference.yaml", f"replicas: 1\nresources: {{{text}}}\n")
    resources = {"requests": {"memory": "128Mi"}, "limits": {"memory": "768Mi"}}
    for group, amounts in merged_values.read(tmp_path / "inference.yaml")["resources"].items():
        resources[group] |= amounts
    [one] = of_objects(tmp_path, "inference", workload(resources))
    assert (one.file, one.line, one.key) == ("inference.yaml", 2, f"resources.{key}")
    assert message in one.message
    assert fix in one.fix


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("3Gi", "3 Gi", "quota.requests.memory", "did you mean 3Gi?"),
        ("3Gi", "3GB", "quota.requests.memory", "did you mean 3G"),
        ("requests.cpu:", "request.cpu:", "quota.request.cpu", "did you mean requests.cpu?"),
        ("pods: 30", "pods: 1.5k5", "quota.pods", "is no Kubernetes quantity"),
    ],
)  # fmt: skip
def test_a_quota_that_kubernetes_refuses_is_found(
    tmp_path: Path, old: str, new: str, key: str, words: str
) -> None:
    shipped = (ROOT / "values/dev/environment.yaml").read_text()
    assert old in shipped
    (tmp_path / "environment.yaml").write_text(shipped.replace(old, new))
    hard = merged_values.read(tmp_path / "environment.yaml")["quota"]
    document = {"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}}
    [one] = of_objects(tmp_path, "environment", document)
    assert (one.file, one.line, one.key) == ("environment.yaml", 1, key)
    assert words in str(one)


def of_objects(root: Path, name: str, *documents: Manifest) -> list[Finding]:
    """What is said of a release's objects, whose values are in <name>.yaml."""
    release = Release("dev", name, "service", "charts/service", "dev", (f"{name}.yaml",), ())
    return merged(quantities.findings(Environment(root, {release: documents})))


def workload(resources: object) -> Manifest:
    """A Deployment of one container."""
    pod = {"metadata": {}, "spec": {"containers": [{"name": "a", "resources": resources}]}}
    return {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": pod}}


def test_every_amount_of_an_environment_is_looked_at(root: Path) -> None:
    added(root, "values/dev/proxy.yaml", "resources: {limits: {memory: 768MB}}\n")
    added(root, INFERENCE, "sidecar: {resources: {limits: {memory: 256MB}}}\n")
    added(root, ENVIRONMENT, "limits: {limits: {memory: 256mib}}\n")
    replaced(root, ENVIRONMENT, "16Gi", "1Pi")
    assert {one.key: one.fix for one in found(root)} == {
        "resources.limits.memory": "did you mean 768Mi?",
        "sidecar.resources.limits.memory": "did you mean 256Mi?",
        "limits.limits.memory": "did you mean 256Mi?",
    }


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("250m", "0.25"), ("1Gi", "1073741824"), ("2k", "2000"), ("30", "30"), ("1e3", "1000"),
        ("1E3", "1000"), ("1E", "1e18"), ("1Pi", str(2**50)), ("1Ei", str(2**60)), ("+5", "5"),
        ("-1.5M", "-1500000"), (".5", "0.5"), ("5.", "5"), ("7u", "0.000007"), ("7n", "7e-9"),
        ("2T", "2e12"), ("100Ei", str(2**63 - 1)), ("1e999", str(2**63 - 1)), ("1e-3", "0.001"),
    ],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_does(text: str, amount: str) -> None:
    """Found: `Pi` and `Ei`, which are valid, ended in a traceback."""
    assert quantities.quantity(text) == Decimal(amount)


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1KiB", "768MB", "1K", "1mi", "0x10", "1_000", "\u0661", "1e", "e3",
             "1.2.3", "--1", "1e3Ki", "NaN", "inf", " 1", "1\n"]
)  # fmt: skip
def test_other_texts_are_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="is no Kubernetes quantity"):
        quantities.quantity(text)


@given(st.text(max_size=12) | st.from_regex(r"[+-]?[0-9.]*[eE]?[+-]?[0-9]*[a-zA-Z ]*"))
def test_any_text_has_an_answer(text: str) -> None:
    for resource in ("memory", "cpu", "nvidia.com/gpu", "pods"):
        wrong = quantities.refusal(resource, text)
        assert wrong is None or all(wrong)


def test_a_check_that_fails_takes_no_finding_of_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: one traceback, and every other finding was lost."""

    def broken(_: object) -> Iterator[Finding]:
        yield Finding("values/dev/a.yaml", 1, "a", "is wrong")
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(quota, "findings", broken)
    added(tmp_path, "inference.yaml", "resources: {limits: {memory: 768MB}}\n")
    release = Release("dev", "inference", "service", "c", "dev", ("inference.yaml",), ())
    document = workload({"limits": {"memory": "768MB"}}) | {"apiVersion": "apps/v1"}
    environment = Environment(tmp_path, {release: [document]})
    told = [str(one) for one in run.cross_checks(environment, {})]
    assert any(
        "the check of the quota failed" in one and "ZeroDivisionError" in one for one in told
    )
    assert any("768MB" in one for one in told)
    assert any("is wrong" in one for one in told), "what it had found before"


def test_a_missing_program_is_no_finding() -> None:
    def missing() -> list[validate.Finding]:
        raise NotFoundError("There is no helm.")

    with pytest.raises(NotFoundError):
        list(run.completed("schemas", "charts", missing))
