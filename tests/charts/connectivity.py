"""Who may talk to whom: np-guard's analyser over the rendered NetworkPolicies.

``python -m tests.charts.connectivity`` writes the table that test_connectivity compares.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests import programs
from tests.charts.rendering import ALL_RELEASES, ROOT, render

TABLE = ROOT / "tests/charts/connectivity.txt"
NEIGHBOURS = ROOT / "tests/fixtures/neighbours.yaml"
OURS = ("dev/", "stage/", "prod/")


def analyse(folder: Path) -> list[str]:
    """Lines ``source => destination : ports`` for all that begins or ends in an environment."""
    command = [programs.require("netpolicy"), "list", "--quiet", "--dirpath", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    lines = []
    for line in answer.stdout.splitlines():
        ends = line.partition(" : ")[0].split(" => ")
        if any(end.startswith(OURS) for end in ends):
            lines.append(line)
    return sorted(lines)


def table(root: Path = ROOT) -> str:
    """The table of every connection that the charts and values below ``root`` allow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "neighbours.yaml").write_bytes(NEIGHBOURS.read_bytes())
        for release in ALL_RELEASES:
            if release.chart != "routing":
                text = render(release, root)
                (folder / f"{release.environment}-{release.name}.yaml").write_text(
                    text, encoding="utf-8"
                )
        return "\n".join(analyse(folder)) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    sys.stdout.write(f"wrote {TABLE.relative_to(ROOT)}\n")
