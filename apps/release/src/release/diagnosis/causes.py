"""Why a release is not as wanted, and the text of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HELM_COMMAND = re.compile(
    r"(?:rpc error: code = \w+ desc = )?(?:Manifest generation error \(cached\): )?"
    r"(?:failed to execute helm template command: )?(?:failed to get command args to log: )?"
    r"`helm template [^`]*` failed(?: exit status \d+)?: (?:Error: )?"
)
QUOTA = re.compile(r"exceeded quota|must specify limits|maximum .* usage per", re.I)


@dataclass(frozen=True)
class Cause:
    """Why a release is not as wanted.

    ``final`` means that waiting will not mend it. ``log`` names the pod and container whose
    log says more: (pod, container, whether of its previous run). ``fix`` is what a person does
    about it, "" where only waiting or the log can tell.
    """

    kind: str
    text: str
    final: bool = False
    log: tuple[str, str, bool] | None = None
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def _without_noise(text: str) -> str:
    """Argo CD's message without Helm's command line and what repo-server wraps around it.

    The command line alone is longer than what is shown, and the cause stands behind it.
    """
    line = " ".join(text.split())
    line = _HELM_COMMAND.sub("", line)
    return line.replace("Use --debug flag to render out invalid YAML", "").strip()


def short(text: str, length: int = 400) -> str:
    """The text on one line, its noise dropped and cut to a length."""
    line = _without_noise(text)
    return line if len(line) <= length else line[: length - 1] + "…"
