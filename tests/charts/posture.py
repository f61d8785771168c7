"""kube-score's and checkov's findings about rendered manifests; none is allowed.

A finding that does not hold is switched off beside the value that causes it
(charts/service/templates/_findings.tpl), never here.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests import programs

# Groups of resources that are more than one chart: kube-score looks at selectors across them.
_MISSING_PODS = "NetworkPolicys selector doesn't match any pods"


def kube_score(text: str) -> list[str]:
    """Findings of any grade in a stream of manifests."""
    command = [programs.require("kube-score"), "score", "--output-format", "json", "-"]
    answer = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    findings = []
    for thing in json.loads(answer.stdout) or []:
        for check in thing["checks"]:
            if check["skipped"] or check["grade"] >= 10:
                continue
            comments = check["comments"] or [{"path": "", "summary": ""}]
            findings += [
                f"{thing['object_name']}: {check['check']['id']}: {one['path']} {one['summary']}"
                for one in comments
            ]
    return sorted(findings)


def checkov(folder: Path) -> list[str]:
    """Failed checks in a folder of manifests."""
    command = [
        programs.require("checkov"),
        *("--directory", str(folder), "--framework", "kubernetes", "--output", "json"),
        *("--quiet", "--compact", "--skip-download"),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode in (0, 1), answer.stderr
    report = json.loads(answer.stdout)
    assert report["summary"]["passed"] > 0, "checkov looked at nothing"
    return sorted(
        f"{one['resource']}: {one['check_id']}: {one['check_name']}"
        for one in report["results"]["failed_checks"]
    )
