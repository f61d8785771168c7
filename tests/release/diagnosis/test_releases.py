"""What the cluster says, shown so that the cause is read and the number of pods is the wished."""

from __future__ import annotations

from typing import Any

from release.cluster.client import Observation
from release.diagnosis.causes import Cause, short
from release.diagnosis.drift import IMAGE_DRIFT
from release.diagnosis.releases import State, find
from release.status import table
from release.values.references import Image
from tests.release.conftest import digest
from tests.release.verification.test_verification import application, container, cronjob, pod

HELM = (
    "Failed to load target state: failed to generate manifest for source 1 of 1: rpc error: code = "
    "Unknown desc = Manifest generation error (cached): failed to execute helm template command: "
    "failed to get command args to log: `helm template . --name-template proxy --namespace dev "
    f"--kube-version 1.34 {'--api-versions apps/v1 ' * 40}--include-crds` failed exit status 1: "
    "Error: values don't meet the specifications of the schema(s) in the following chart(s):\n"
    "service:\n- at '': additional properties 'replcias' not allowed\n\n"
    "Use --debug flag to render out invalid YAML"
)


def test_the_cause_of_a_comparison_error_is_not_cut_off() -> None:
    """Found: 400 characters of Helm's command line, and the cause behind them was cut."""
    said = short(HELM)
    assert "additional properties 'replcias' not allowed" in said
    assert "--api-versions" not in said
    assert "--debug" not in said


def test_pods_that_the_quota_refused_are_counted_as_wished() -> None:
    """Found: 12/12 pods where 60 were wished and the quota stopped them."""
    labels = {"app.kubernetes.io/instance": "proxy"}
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"}
    image = {"name": "proxy", "image": f"r/proxy:1@sha256:{'a' * 64}"}
    pods: list[dict[str, Any]] = [
        {
            "metadata": {"name": f"proxy-{n}", "labels": labels},
            "spec": {"containers": [image]},
            "status": ready,
        }
        for n in range(12)
    ]
    refused = "pods is forbidden: exceeded quota: environment, used: pods=30, limited: pods=30"
    deployment: dict[str, Any] = {
        "metadata": {"name": "proxy", "generation": 1},
        "spec": {"replicas": 60, "template": {"spec": {"containers": [image]}}},
        "status": {
            "conditions": [{"type": "ReplicaFailure", "status": "True", "message": refused}]
        },
    }
    app = {"metadata": {"name": "dev-proxy"}, "status": {"sync": {"status": "Synced"}}}
    seen = Observation({"proxy": app}, pods=pods, deployments=[deployment])
    finding = find("proxy", Image("r/proxy", "1", f"sha256:{'a' * 64}", "b" * 40), seen)
    assert (finding.ready, finding.pods) == (12, 60)
    assert Cause("quota", refused) in finding.causes


def test_a_deployment_of_another_image_than_git_is_said_though_argo_cd_says_synced() -> None:
    wanted = Image("r/proxy", "1", f"sha256:{'a' * 64}", "b" * 40)
    container = {"name": "proxy", "image": f"r/other@sha256:{'c' * 64}"}
    deployment = {
        "metadata": {"name": "proxy", "generation": 2},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [container]}}},
        "status": {"observedGeneration": 2},
    }
    app = {"status": {"sync": {"status": "Synced", "revision": "f" * 40}}}
    finding = find("proxy", wanted, Observation({"proxy": app}, deployments=[deployment]))
    (cause,) = [each for each in finding.causes if each.kind == IMAGE_DRIFT]
    assert "r/other" in cause.text
    assert wanted.digest in cause.text
    assert "argo cd" in cause.fix.lower()
    # a commit that Argo CD has not looked at yet is no drift for good
    assert table.failed_if_drifted(finding, "f" * 40).state is State.FAILED
    assert table.failed_if_drifted(finding, "e" * 40).state is finding.state is State.PROGRESSING
    container["image"] = f"r/proxy@{wanted.digest}"
    finding = find("proxy", wanted, Observation({"proxy": app}, deployments=[deployment]))
    assert IMAGE_DRIFT not in [each.kind for each in finding.causes]


def test_a_run_that_failed_with_a_message_is_over_once_another_succeeded() -> None:
    """Found: four pods of an outage that was over kept unzip progressing and verify waiting."""
    made = cronjob("1")
    template = made["spec"]["jobTemplate"]["spec"]

    def job(name: str, condition: str) -> dict[str, Any]:
        owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "unzip", "uid": "1"}
        return {
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": template,
            "status": {"conditions": [{"type": condition, "status": "True"}]},
        }

    message = '{"event": "cannot work", "reason": "keys are refused", "fix": "mend the Secret"}'
    ended = {"exitCode": 1, "reason": "Error", "message": message}
    failed = pod(
        "unzip", "1", ready=False, name="unzip-1-a", phase="Failed",
        containerStatuses=[container("unzip", state={"terminated": ended})],
    )  # fmt: skip
    failed["metadata"]["ownerReferences"] = [{"name": "unzip-1"}]
    applications = {"unzip": application("unzip", "0" * 40)}
    wanted = Image("registry.test/slipway/unzip", "1", digest("unzip1"), "0" * 40)
    jobs = [job("unzip-1", "Failed"), job("unzip-2", "Complete")]
    seen = Observation(applications, pods=[failed], cronjobs=[made], jobs=jobs)
    found = find("unzip", wanted, seen)
    assert (found.state, found.causes, found.verified) == (State.DEPLOYED, (), True)
    alone = Observation(applications, pods=[failed], cronjobs=[made], jobs=jobs[:1])
    assert "keys are refused" in str(find("unzip", wanted, alone).causes)
