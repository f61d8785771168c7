"""A steady load of real predictions, and what became of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import programs
from tests.charts.scratch import DIGIT, GATEWAY, HOST

# What `vegeta report -type=json` says.
Report = dict[str, Any]
# Requests a second.
RATE = int(os.environ.get("SLIPWAY_LIVE_RATE", "20"))


@contextmanager
def load(folder: Path, rate: int, gateway: str = GATEWAY) -> Iterator[Callable[[], Report]]:
    """Predictions at a steady rate; calling what it gives ends it and reports on them."""
    (folder / "body.json").write_text(json.dumps(DIGIT), encoding="utf-8")
    targets = folder / "targets"
    targets.write_text(
        f"POST {gateway}/v2/models/digits/infer\nHost: {HOST}\n"
        f"Content-Type: application/json\n@{folder / 'body.json'}\n",
        encoding="utf-8",
    )
    vegeta = programs.require("vegeta")
    results = folder / "results"
    with results.open("wb") as output:
        attack = subprocess.Popen(
            [
                vegeta,
                "attack",
                f"-rate={rate}",
                "-duration=0",
                "-timeout=20s",
                f"-targets={targets}",
            ],
            stdout=output,
        )

        def end() -> Report:
            attack.send_signal(signal.SIGINT)
            attack.wait(60)
            report = subprocess.run(
                [vegeta, "report", "-type=json", str(results)],
                check=True,
                capture_output=True,
                text=True,
            )
            found: Report = json.loads(report.stdout)
            return found

        try:
            yield end
        finally:
            if attack.poll() is None:
                attack.kill()
                attack.wait()


def tell(what: str, report: Report) -> None:
    """For the table in docs/operations/disruptions.md: `pytest -rP` shows it."""
    others = {code: n for code, n in report["status_codes"].items() if code != "200"}
    print(f"{what}: {sum(others.values())} of {report['requests']} failed, {others}")


def assert_none_failed(report: Report) -> None:
    """Every request of a report was answered by 200, and there were some."""
    assert report["requests"] > RATE, "hardly any load"
    assert report["status_codes"] == {"200": report["requests"]}, report["errors"]
