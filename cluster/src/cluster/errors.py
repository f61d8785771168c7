"""What can go wrong, in words that a person can act on."""

from __future__ import annotations

from pathlib import Path


class ClusterError(Exception):
    """A step that failed: its cause, how to mend it, and the log that tells more."""

    def __init__(self, cause: str, *, fix: str = "", log: Path | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix
        self.log = log

    def report(self, *, tail_lines: int = 15) -> str:
        """The message for a terminal: cause, fix, the log's last lines and its place."""
        lines = [self.cause]
        if self.fix:
            lines.append(f"fix: {self.fix}")
        if self.log is not None and self.log.is_file():
            tail = self.log.read_text(errors="replace").splitlines()[-tail_lines:]
            lines += [f"last lines of {self.log}:", *(f"  {line}" for line in tail)]
        return "\n".join(lines)
