"""`release validate`: both sides of a connection agree, or the line to add is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release import validate
from tests.programs import require
from tests.release.broken_values import added, copied, found, replaced

PROXY = "values/services/proxy/service.yaml"
INFERENCE = "values/services/inference/service.yaml"
WORKER = "values/services/worker/service.yaml"
LISTED = "  proxy: {ports: [8080/TCP]}\n"
CALLS = "calls: {inference: {}}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copied(tmp_path)


def line(root: Path, path: str, text: str) -> int:
    """The line of a file on which a text begins."""
    lines = (root / path).read_text().splitlines()
    return next(number for number, one in enumerate(lines, 1) if one.startswith(text))


# The change, where the finding stands (file, beginning of its line, key), its words and its fix.
FAULTS: dict[str, tuple[Callable[[Path], Any], tuple[str, str, str], str, str]] = {
    "a call that the callee does not list": (
        lambda r: replaced(r, INFERENCE, LISTED, ""),
        (PROXY, "calls:", "calls.inference"),
        "names inference, which does not list proxy under callers",
        f"add `proxy: {{}}` under callers in {INFERENCE}:",
    ),
    "a call of a port that the callee does not open": (
        lambda r: added(r, "values/dev/proxy.yaml", "calls: {inference: {ports: [8081/TCP]}}\n"),
        ("values/dev/proxy.yaml", "calls:", "calls.inference"),
        "names 8081/TCP of inference, which lets proxy connect to 8080/TCP alone",
        f"add 8081/TCP under callers.proxy.ports in {INFERENCE}:",
    ),
    "a backend without a call": (
        lambda r: added(r, WORKER, "calls: {inference: null}\n"),
        (PROXY, "    inference: {type", "env.PROXY_BACKENDS.inference.url"),
        "no NetworkPolicy lets worker connect to port 8080 of inference",
        f"add `inference: {{}}` under calls in {WORKER}:",
    ),
    "a caller that does not call": (
        lambda r: replaced(r, INFERENCE, LISTED, LISTED + "  unzip: {}\n"),
        (INFERENCE, "  unzip:", "callers.unzip"),
        "names unzip, which does not list inference under calls",
        "add `inference: {}` under calls in values/services/unzip/service.yaml, or take the caller",
    ),
    "a caller that is no release": (
        lambda r: replaced(r, INFERENCE, LISTED, LISTED + "  prox: {}\n"),
        (INFERENCE, "  prox:", "callers.prox"),
        "names 'prox', which is no release of the environment",
        "did you mean proxy?",
    ),
    "a call of what is no release": (
        lambda r: replaced(r, PROXY, CALLS, "calls: {inference: {}, rank: {}}\n"),
        (PROXY, "calls:", "calls.rank"),
        "names 'rank', which is no release of the environment",
        "use one of inference, proxy, unzip, worker",
    ),
    "a path at the gateway that leads to a release which does not let it in": (
        lambda r: added(r, "values/dev/routing.yaml", "services: {inference: {paths: [/v2]}}\n"),
        ("values/dev/routing.yaml", "services:", "services.inference.paths"),
        "leads from the gateway to inference, which does not list the gateway under callers",
        f"add `gateway: {{}}` under callers in {INFERENCE}:",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_one_finding_with_its_place_and_fix(root: Path, name: str) -> None:
    change, (file, begins, key), words, fix = FAULTS[name]
    change(root)
    told = found(root)
    assert [(one.file, one.key) for one in told if one.key == key] == [(file, key)], told
    [one] = [one for one in told if one.key == key]
    assert one.line == (line(root, file, begins) if begins else 0)
    assert words in one.message
    assert fix in one.fix
    assert len(told) == 1, [str(one) for one in told]


def test_an_address_without_a_call_names_the_line_of_both_sides(root: Path) -> None:
    added(root, "values/dev/unzip.yaml", "  UNZIP_BACKEND_URL: http://proxy:8080/done\n")
    [one] = found(root)
    assert one.key == "env.UNZIP_BACKEND_URL"
    assert "no NetworkPolicy lets unzip connect to port 8080 of proxy" in one.message
    assert one.fix == (
        "add `proxy: {}` under calls in values/services/unzip/service.yaml and `unzip: {}` under "
        f"callers in {PROXY}:{line(root, PROXY, 'callers:')}"
    )


def test_the_lines_that_a_fix_names_mend_it(root: Path) -> None:
    added(root, "values/dev/unzip.yaml", "  UNZIP_BACKEND_URL: http://proxy:8080/done\n")
    added(root, "values/services/unzip/service.yaml", "calls: {proxy: {}}\n")
    replaced(root, PROXY, "callers:\n", "callers:\n  unzip: {}\n")
    assert found(root) == []


def test_a_store_of_the_platform_is_used_by_its_peer_s_name(root: Path) -> None:
    replaced(root, PROXY, "uses: {redis: true, s3: true}", "uses: {s3: true}")
    told = found(root)
    assert {one.key for one in told} == {"env.PROXY_REDIS_URL"}
    assert all("`redis: true` under uses in" in one.fix for one in told)
    assert any(PROXY in one.fix for one in told)


def test_a_peer_that_the_platform_does_not_have_is_spelt_out(root: Path) -> None:
    address = "http://api.istio-system.svc:9000/done"
    added(root, "values/dev/unzip.yaml", f"  UNZIP_BACKEND_URL: {address}\n")
    [one] = found(root)
    assert (
        "add `api: {namespace: istio-system, ports: [9000/TCP]}` under platform.peers in "
        "values/platform/one-machine.yaml" in one.fix
    )
    assert "`api: true` under uses in values/services/unzip/service.yaml" in one.fix


def test_routes_that_no_environment_reads_are_found(root: Path) -> None:
    require("kubeconform")
    file = "argocd/environments/dev.yaml"
    replaced(root, file, '- ../../values/services/proxy/{{ dig "reads" "none" . }}.yaml\n', "\n")
    told = [one for one in validate.validate(root, ["dev"]).findings if one.file == file]
    assert [one.message for one in told] == [
        "does not name values/services/proxy/routes.yaml: no request is routed by it"
    ]


VARIANT_ROW = "          - {release: inference, chart: service}\n"


def with_a_variant(root: Path) -> None:
    """inference-challenger with the values of inference, and a tenth of its requests."""
    replaced(
        root, "argocd/environments/dev.yaml", VARIANT_ROW,
        VARIANT_ROW + VARIANT_ROW.replace("service}", "service, of: inference}").replace(
            "release: inference", "release: inference-challenger"
        ),
    )  # fmt: skip
    for path in (root / "values/dev").glob("inference.*"):
        end = path.name.removeprefix("inference")
        path.with_name(f"inference-challenger{end}").write_text(path.read_text())
    added(
        root, "values/dev/routing.yaml",
        "services: {inference: {split: {inference: 90, inference-challenger: 10}}, "
        "inference-challenger: {}}\n",
    )  # fmt: skip


def test_a_variant_s_callers_have_to_call_it(root: Path) -> None:
    with_a_variant(root)
    told = {one.fix for one in found(root)}
    assert len(told) == 2, told
    for name in ("proxy", "worker"):
        assert any(
            "add `inference-challenger: {}` under calls" in fix and name in fix for fix in told
        )
    for name in ("proxy", "worker"):
        added(root, f"values/dev/{name}.yaml", "calls: {inference-challenger: {}}\n")
    assert found(root) == []


def test_a_variant_that_refuses_its_share_of_requests_is_found(root: Path) -> None:
    with_a_variant(root)
    for name in ("proxy", "worker"):
        added(root, f"values/dev/{name}.yaml", "calls: {inference-challenger: {}}\n")
    added(root, "values/dev/inference-challenger.yaml", "callers: {worker: null}\n")
    added(root, "values/dev/worker.yaml", "")
    told = [one for one in found(root) if one.key == "services.inference.split"]
    assert len(told) == 1
    assert "sends requests of worker on to inference-challenger" in told[0].message


def test_a_variable_that_a_peer_brings_is_judged_where_it_stands(root: Path) -> None:
    """The platform's variables are those of the releases that use the peer, and of no other."""
    file = "values/platform/one-machine.yaml"
    replaced(root, file, "redis: {", "redis: {env: {PROXY_RETRY_RATIO: often}, ")
    told = found(root)
    assert {(one.file, one.line) for one in told} == {(file, line(root, file, "    redis:"))}
    assert {release for one in told for release in one.releases} == {"dev/proxy", "dev/worker"}
