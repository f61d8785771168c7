"""The causes of findings in words, each with what its container said, and the fix that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from release.cluster.client import Cluster
from release.diagnosis import container_log
from release.diagnosis.causes import Cause
from release.diagnosis.releases import Finding, State


def with_reasons(cluster: Cluster, environment: str, finding: Finding) -> Finding:
    """The finding whose causes name what their containers logged, and the fix these gave."""
    causes = tuple(with_reason(cluster, environment, cause) for cause in finding.causes)
    return replace(finding, causes=causes)


def with_reason(cluster: Cluster, environment: str, cause: Cause) -> Cause:
    """The cause with what its container logged, and the fix that it gave."""
    if cause.log is None:
        return cause
    pod, container, previous = cause.log
    reason = container_log.read(cluster.logs(environment, pod, container, previous=previous))
    if not reason.text:
        return cause
    text = f"{cause.text} [{reason.text}]"
    return replace(cause, text=text, fix=reason.fix or cause.fix, log=None)


def sentence(findings: Sequence[Finding]) -> str:
    """The causes in one text."""
    causes = [
        f"{finding.release}: {cause}"
        for finding in findings
        for cause in finding.causes or (_unknown(finding),)
    ]
    return "; ".join(dict.fromkeys(causes)) + ("." if causes else "")


def advice(findings: Sequence[Finding]) -> str:
    """The fixes of the causes, each once; "" where none is known."""
    fixes = [cause.fix for finding in findings for cause in finding.causes if cause.fix]
    return "; ".join(dict.fromkeys(fixes))


def _unknown(finding: Finding) -> Cause:
    if finding.state is State.DEPLOYED and not finding.verified:
        return Cause("not verified", "applied, and no run of its image has succeeded yet")
    return Cause("health", f"Argo CD says {finding.sync} and {finding.health}")
