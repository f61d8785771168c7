"""Values that a service or the API server refuses: `release validate` says so before they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from release.validate.objects import labels
from release.validate.settings import service_settings, variables
from release.validate.workloads import schedules
from tests.programs import require
from tests.release.broken_values import ROOT, added, copied, found, replaced

REDIS = "redis://redis.slipway-system:6379/0"
BACKENDS = '{"digits": {"type": "http", "url": "http://inference:8080"}}'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copied(tmp_path)


def refused(app: str, **given: str) -> list[tuple[str, str]]:
    known = variables.read(ROOT)[0][app]
    return [
        (one.variable, one.message) for one in service_settings.refusals(app, list(known), given)
    ]


@pytest.mark.parametrize(
    "url", ["redis.slipway-system:6379", "http://redis:6379", "${REDIS_URL}", "redis://redis:port"]
)
def test_an_address_that_the_service_refuses_is_refused_here(url: str) -> None:
    """Found: no finding, and a service that does not start."""
    [(variable, message)] = refused("proxy", PROXY_REDIS_URL=url)
    assert variable == "PROXY_REDIS_URL"
    assert "must begin with redis://" in message or "port" in message


@pytest.mark.parametrize(
    ("app", "variable", "text", "words"),
    [
        ("proxy", "PROXY_BACKENDS", BACKENDS.replace("http://", ""),
         "digits.http: 'inference:8080' must begin with http://"),
        ("proxy", "PROXY_STAGE_PREFIXES", '["dev"]', "must look like `/dev`"),
        ("inference", "INFERENCE_PREDICTION_LOG", "s3:/logs", "should match pattern"),
        ("unzip", "UNZIP_BUCKET", "", "at least 1 character"),
        ("unzip", "UNZIP_BACKEND_URL", "proxy:8080/done", "should match pattern"),
        ("unzip", "UNZIP_NAME_CHARSETS", "cp9499", "is no charset"),
    ],
)  # fmt: skip
def test_the_services_own_rules_are_asked(app: str, variable: str, text: str, words: str) -> None:
    [(named, message)] = refused(app, **{variable: text})
    assert named in (variable, "")
    assert words in message


def test_the_variables_of_this_process_are_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_REDIS_URL", "http://nowhere")
    assert refused("proxy", PROXY_BACKENDS=BACKENDS) == []


def test_a_service_of_another_version_is_not_asked() -> None:
    given = {"PROXY_REDIS_URL": "http://redis"}
    assert list(service_settings.refusals("proxy", ["PROXY_REDIS_URL"], given)) == []
    assert list(service_settings.refusals("nobody", [], given)) == []


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("*/10 * * *", "has 4 fields instead of 5"), ("61 * * * *", "whose minute '61'"),
        ("* 24 * * *", "whose hour '24'"), ("0 0 0 * *", "whose day of the month '0'"),
        ("0 0 * 13 *", "whose month '13'"), ("0 0 * * 7", "whose day of the week '7'"),
        ("*/0 * * * *", "whose minute '*/0'"), ("9-5 * * * *", "whose minute '9-5'"),
        ("0 0 31 2 *", "it never runs"), ("0 0 30 feb *", "it never runs"),
        ("0 0 31 4,6,9,11 *", "it never runs"), ("@dayly", "has 1 fields"), ("", "has 0 fields"),
        ("0 0 * * moon", "whose day of the week 'moon'"), ("1, * * * *", "whose minute '1,'"),
        ("*/5 * * * *", ""), ("0 0 29 2 *", ""), ("0 0 31 2 mon", ""), ("@hourly", ""),
        ("@every 1h30m", ""), ("0 9-17/2 1,15 JAN-MAR Mon-Fri", ""), ("5/15 * ? * ?", ""),
    ],
)  # fmt: skip
def test_a_schedule_is_read_as_kubernetes_does(schedule: str, words: str) -> None:
    wrong = schedules.refusal(schedule)
    assert words in wrong
    assert bool(words) == bool(wrong)


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("team", "vision", True), ("team", "", True), ("example.com/team", "a.b_c-d", True),
        ("team", "a b!", False), ("team", "비전", False), ("team", "-a", False),
        ("team", "a" * 64, False), ("te am", "a", False), ("Example.com/team", "a", False),
        ("/team", "a", False),
    ],
)  # fmt: skip
def test_labels_are_what_the_api_server_takes(name: str, value: str, good: bool) -> None:
    assert (labels.refusal(name, value) is None) is good


def test_each_fault_of_one_tree_is_one_finding_at_its_place(root: Path) -> None:
    """Found: each of these had no finding."""
    require("helm")
    replaced(root, "values/dev/proxy.yaml", REDIS, "redis.slipway-system:6379")
    replaced(root, "values/dev/unzip.yaml", '"* * * * *"', '"*/10 * * *", timeZone: Asia/Soul')
    replaced(root, "values/dev/unzip.yaml", "UNZIP_BUCKET: archives", "UNZIP_BUCKET: ''")
    added(root, "values/dev/unzip.yaml", "podLabels: {team: a b!}\n")
    added(root, "values/dev/inference.yaml", "env: {INFERENCE_GRPC_PORT: '9000'}\n")
    added(root, "values/dev/inference.yaml", "modelFetch: {path: /model}\n")
    added(root, "values/dev/inference.yaml", "stop: {graceSeconds: 20}\n")
    added(root, "values/dev/worker.yaml", "envFromSecrets: {s3-credental: true}\n")
    told = {f"{one.file}:{one.line}: {one.key}": str(one) for one in found(root)}
    expected = {
        "values/dev/proxy.yaml:5: env.PROXY_REDIS_URL":
            "is 'redis.slipway-system:6379': must begin with redis://",
        "values/dev/unzip.yaml:1: cronJob.schedule": "has 4 fields instead of 5",
        "values/dev/unzip.yaml:1: cronJob.timeZone": "did you mean Asia/Seoul?",
        "values/dev/unzip.yaml:3: env.UNZIP_BUCKET": "at least 1 character",
        "values/dev/unzip.yaml:4: podLabels.team": "the value 'a b!'",
        "values/dev/inference.yaml:3: env.INFERENCE_GRPC_PORT": "ports.grpc is 8081",
        "values/dev/inference.yaml:4: modelFetch.path": "INFERENCE_MODEL_REPOSITORY '/models'",
        "values/dev/inference.yaml:5: stop.graceSeconds": "write at least 30",
        "values/dev/worker.yaml:6: envFromSecrets.s3-credental": "did you mean s3-credentials?",
    }  # fmt: skip
    assert sorted(told) == sorted(expected)
    for place, words in expected.items():
        assert words in told[place]


def test_a_misspelt_secret_does_not_hide_a_missing_setting(root: Path) -> None:
    """Found: with it no missing setting was a finding."""
    require("helm")
    replaced(root, "values/dev/worker.yaml", f"  PROXY_REDIS_URL: {REDIS}\n", "")
    added(root, "values/dev/worker.yaml", "envFromSecrets: {s3-credental: true}\n")
    keys = ["env.PROXY_REDIS_URL", "envFromSecrets.s3-credental"]
    assert sorted(one.key for one in found(root)) == keys
    replaced(root, "values/dev/worker.yaml", "s3-credental", "worker-settings")
    assert not any("is set by no file" in one.message for one in found(root))
