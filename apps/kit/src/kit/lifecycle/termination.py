"""Why a process ends, where Kubernetes looks: the container's termination message.

The kubelet mounts a file into every container and shows what a process left in it as the message
of the container's last state (`kubectl describe pod`, `release verify`, `release status`).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "TERMINATION_MESSAGE_PATH"
USUAL_PATH = "/dev/termination-log"
LONGEST = 4096
"""Bytes of a message that Kubernetes keeps."""

CANNOT_WORK = 2
"""Exit code of a process whose settings can never become right: a restart does not help."""

NOT_READY = "not ready"
GAVE_UP = "cannot work"
"""Messages of the log's lines with the reason and the fix; `release` looks for them."""

_FIX = "\nfix: "


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a process ends or waits, and what a person does about it."""

    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.fix}" if self.fix else self.text


def leave(reason: Reason) -> None:
    """Write the reason into the container's termination message; nothing outside a container."""
    path = Path(os.environ.get(VARIABLE, USUAL_PATH))
    if not path.exists():
        return
    with contextlib.suppress(OSError):  # it ends in any case, and the log says the same
        path.write_bytes(message(reason).encode(errors="replace")[:LONGEST])


def message(reason: Reason) -> str:
    """The text of a termination message: the reason, and the fix on a line of its own."""
    return f"{reason.text}{_FIX}{reason.fix}\n" if reason.fix else f"{reason.text}\n"


def read(text: str) -> Reason:
    """What `message` was made of; any other text is a reason without a fix."""
    reason, _, fix = text.strip().partition(_FIX)
    return Reason(reason.strip(), fix.strip())
