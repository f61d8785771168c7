"""Liveness and readiness, and why a pod is not ready."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Health:
    """What ``/livez`` and ``/readyz`` answer.

    A service puts a reason under a name while something it needs is missing and takes it
    away once it is there. ``draining`` is set by the server on SIGTERM.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    draining: bool = False
    failed: str = ""

    def wait_for(self, name: str, reason: str) -> None:
        """Unready because of ``name`` until ``ready(name)``."""
        self.reasons[name] = reason

    def ready(self, name: str) -> None:
        """``name`` is there now."""
        self.reasons.pop(name, None)

    def liveness(self) -> tuple[int, dict[str, str]]:
        """Status and body of ``/livez``: failing only for what a restart would mend."""
        return (
            (500, {"status": "failed", "reason": self.failed})
            if self.failed
            else (
                200,
                {"status": "live"},
            )
        )

    def readiness(self) -> tuple[int, dict[str, str]]:
        """Status and body of ``/readyz``, the reasons by name."""
        if self.draining:
            return 503, {"status": "draining"}
        if self.reasons:
            return 503, {"status": "waiting", **self.reasons}
        return 200, {"status": "ready"}
