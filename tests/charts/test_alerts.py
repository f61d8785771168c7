"""The alerts of charts/service, by Prometheus' own checker: when they fire, and when not.

The series are those of kube-state-metrics, as its documentation names and labels them.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import programs
from tests.charts.rendering import ALL_RELEASES, ROOT, Release, helm, manifests

IN_DEV = 'namespace="dev"'
AVAILABLE = f'kube_deployment_status_replicas_available{{{IN_DEV},deployment="x"}}'
WANTED = f'kube_deployment_spec_replicas{{{IN_DEV},deployment="x"}}'
PROGRESSING = (
    f'kube_deployment_status_condition{{{IN_DEV},deployment="x",condition="Progressing",'
    'status="false"}'
)
RESTARTS = f'kube_pod_container_status_restarts_total{{{IN_DEV},pod="x-1",container="x"}}'
SUCCEEDED = f'kube_cronjob_status_last_successful_time{{{IN_DEV},cronjob="x"}}'
FAILED_PODS = f'kube_job_status_failed{{{IN_DEV},job_name="x-29340"}}'
SUSPENDED = f'kube_cronjob_spec_suspend{{{IN_DEV},cronjob="x"}}'
CREATED = f'kube_cronjob_created{{{IN_DEV},cronjob="x"}}'


def failed(job: str, condition: str = "true") -> str:
    """The series that says a Job's condition Failed is so."""
    return f'kube_job_failed{{{IN_DEV},job_name="{job}",condition="{condition}"}}'


@dataclass(frozen=True, slots=True)
class Case:
    """Series over minutes, and in which minutes an alert fires."""

    kind: str
    alert: str
    why: str
    series: dict[str, str]
    silent: tuple[int, ...] = ()
    fires: tuple[int, ...] = ()
    values: tuple[str, ...] = field(default=())


CASES = [
    Case("Deployment", "NoPodReady", "two minutes without one",
         {AVAILABLE: "1 0x9", WANTED: "2x10"}, silent=(0, 2), fires=(4,)),
    Case("Deployment", "NoPodReady", "none is wanted, as after KEDA's last job",
         {AVAILABLE: "0x10", WANTED: "0x10"}, silent=(5,)),
    Case("Deployment", "NoPodReady", "another environment's",
         {AVAILABLE.replace("dev", "stage"): "0x10", WANTED.replace("dev", "stage"): "1x10"},
         silent=(5,)),
    Case("Deployment", "RolloutStuck", "five minutes without progress",
         {PROGRESSING: "0 1x10"}, silent=(0, 5), fires=(7,)),
    Case("Deployment", "PodsRestart", "again and again",
         {RESTARTS: "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14"}, silent=(3,), fires=(12,)),
    Case("Deployment", "PodsRestart", "once", {RESTARTS: "0x3 1x20"}, silent=(12,)),
    Case("CronJob", "RunFailed", "its run gave up", {failed("x-29340"): "0 1x5"},
         silent=(0,), fires=(3,)),
    Case("CronJob", "RunFailed", "its run is tried again",
         {failed("x-29340", "false"): "1x5", FAILED_PODS: "1x5"},
         silent=(4,)),
    Case("CronJob", "RunFailed", "the run of a release that begins alike",
         {failed("x-nightly-29340"): "1x5"}, silent=(4,)),
    Case("Job", "RunFailed", "it gave up", {failed("x-0a1b2c3d"): "1x5"}, fires=(3,)),
    Case("CronJob", "NoRunSucceeds", "an hour and ten minutes since the last success",
         {SUCCEEDED: "0x90", CREATED: "0x90"}, silent=(60, 70), fires=(72,)),
    Case("CronJob", "NoRunSucceeds", "it never succeeded", {CREATED: "0x90"}, fires=(72,)),
    # Found: who stopped it, as docs/operations.md says, was paged an hour later.
    Case("CronJob", "NoRunSucceeds", "it is suspended, and fires once it no longer is",
         {SUCCEEDED: "0x120", SUSPENDED: "1x90 0x30"}, silent=(72, 90, 100), fires=(102,)),
    Case("CronJob", "NoRunSucceeds", "it succeeds every half hour, whatever its age",
         {SUCCEEDED: "0x30 1800x30 3600x40", CREATED: "0x100"}, silent=(72, 95)),
    Case("CronJob", "NoRunSucceeds", "a nightly one, told so",
         {SUCCEEDED: "0x90"}, silent=(80,), values=("monitoring.successWithinSeconds=90000",)),
]  # fmt: skip


def rules(kind: str, *values: str) -> list[Any]:
    """The rule groups of a release ``x`` in dev."""
    sets = ["monitoring.enabled=true", f"kind={kind}", *values]
    answer = helm(ROOT / "charts/service", "x", "dev", sets=sets)
    assert answer.returncode == 0, answer.stderr
    return _groups(answer.stdout)


def _groups(text: str) -> list[Any]:
    [rule] = [one for one in manifests(text) if one["kind"] == "PrometheusRule"]
    groups: list[Any] = rule["spec"]["groups"]
    return groups


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it; output and exit code."""
    command = [programs.require("promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.why}")
def test_alert_fires_when_it_must(case: Case, tmp_path: Path) -> None:
    groups = rules(case.kind, *case.values)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    rule = next(one for one in groups[0]["rules"] if one["alert"] == case.alert)
    expected: list[dict[str, Any]] = []
    for minute in case.silent + case.fires:
        expected.append({"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": []})
        if minute in case.fires:
            labels = {**rule["labels"], **_labels(case.series, rule["expr"])}
            expected[-1]["exp_alerts"] = [
                {"exp_labels": labels, "exp_annotations": rule["annotations"]}
            ]
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in case.series.items()],
                "alert_rule_test": expected,
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    answer = promtool("test", "rules", path)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def _labels(series: dict[str, str], expression: str) -> dict[str, str]:
    """The labels of the first series that the expression reads."""
    first = next(one for one in series if one.partition("{")[0] in expression)
    pairs = first.partition("{")[2].rstrip("}").split(",")
    return {name: value.strip('"') for name, _, value in (pair.partition("=") for pair in pairs)}


@pytest.mark.parametrize(
    "release", [one for one in ALL_RELEASES if one.chart == "service"], ids=str
)
def test_shipped_releases_have_rules_that_prometheus_takes(
    release: Release, tmp_path: Path
) -> None:
    answer = helm(
        ROOT / "charts/service",
        release.name,
        release.environment,
        release.files,
        ["monitoring.enabled=true"],
    )
    assert answer.returncode == 0, answer.stderr
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": _groups(answer.stdout)}), encoding="utf-8")
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_rule_that_prometheus_would_refuse_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    group = {"name": "g", "rules": [{"alert": "A", "expr": "sum(rate(x[5m])"}]}
    path.write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
    assert promtool("check", "rules", path).returncode != 0


def test_every_severity_reaches_a_receiver_that_holds_no_secret() -> None:
    """Found: nothing said whom a severity reaches, so every alert ended in Alertmanager."""
    path = ROOT / "argocd/platform/prometheus.yaml"
    application = yaml.safe_load(path.read_text(encoding="utf-8"))
    alertmanager = application["spec"]["source"]["helm"]["valuesObject"]["alertmanager"]
    config = alertmanager["config"]
    receivers = {one.pop("name"): one for one in config["receivers"]}
    schema = (ROOT / "charts/service/values.schema.json").read_text(encoding="utf-8")
    alert = json.loads(schema)["properties"]["monitoring"]["properties"]["alerts"]
    for severity in alert["additionalProperties"]["properties"]["severity"]["enum"]:
        assert _receiver(config["route"], severity) == severity
        [(_, [reached])] = receivers[severity].items()
        [(key, value)] = [(key, reached[key]) for key in reached if re.search("key|url|token", key)]
        assert key.endswith("_file"), f"{severity}: {key} holds the secret itself"
        assert value.split("/")[-2] in alertmanager["alertmanagerSpec"]["secrets"]
    assert _receiver(config["route"], "") == "ticket"


def _receiver(route: Any, severity: str) -> str:
    """Where Alertmanager sends an alert of a severity, by the one kind of matcher used there."""
    for one in route.get("routes", []):
        [matcher] = one["matchers"]
        pattern = re.fullmatch(r'severity=~"(.*)"', matcher)
        assert pattern, f"{matcher} is another kind of matcher than this test reads"
        if re.fullmatch(pattern[1], severity):
            return str(one["receiver"])
    return str(route["receiver"])
