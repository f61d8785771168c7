"""Liveness and readiness, and why a pod is not ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kit.lifecycle import termination
from kit.lifecycle.termination import CANNOT_WORK, GAVE_UP, NOT_READY, Reason
from kit.telemetry import logs

log = logs.get("kit.lifecycle.health")

READY_WITHOUT = "ready without"
AGAIN_SECONDS = 30.0


@dataclass(slots=True)
class Health:
    """What ``/livez`` and ``/readyz`` answer.

    A service puts a reason under a name while something it needs is missing and takes it
    away once it is there. ``draining`` is set by the server on SIGTERM.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    draining: bool = False
    failed: str = ""
    exit_code: int = 0
    """With which the process ends by itself; 0 while it has no reason to."""
    on_give_up: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.monotonic
    _lacking: dict[str, Reason] = field(default_factory=dict)
    _faults: dict[str, Reason] = field(default_factory=dict)
    _logged: dict[str, float] = field(default_factory=dict)

    def wait_for(self, name: str, reason: str, fix: str = "") -> None:
        """Unready because of ``name`` until ``ready(name)``.

        With a ``fix`` it is a fault and not a start that takes its time: the log has a line of it
        when it begins or changes, and again every 30 s while readiness is asked for, so that the
        end of the log always says why.
        """
        found = Reason(reason, fix)
        self.reasons[name] = str(found)
        if not fix:
            self._faults.pop(name, None)
        elif self._faults.get(name) != found:
            self._faults[name] = found
            self._report(name)

    def ready(self, name: str) -> None:
        """``name`` is there now."""
        self.reasons.pop(name, None)
        if self._faults.pop(name, None) is not None:
            log.info("no longer waiting", waiting_for=name)

    def do_without(self, name: str, reason: str, fix: str) -> None:
        """``name`` is missing and the service is ready all the same: log and probe say it."""
        found = Reason(reason, fix)
        if self._lacking.get(name) != found:
            self._lacking[name] = found
            log.warning(READY_WITHOUT, missing=name, reason=reason, fix=fix)

    def do_with(self, name: str) -> None:
        """``name`` is there again."""
        if self._lacking.pop(name, None) is not None:
            log.info("no longer without", missing=name)

    def give_up(self, name: str, reason: str, fix: str, *, code: int = CANNOT_WORK) -> None:
        """End the process: ``name`` will never be there, however long the pod waits.

        The reason stands in the log, in ``/readyz`` and in the container's termination message.
        """
        self.reasons[name] = str(Reason(reason, fix))
        self._faults.pop(name, None)
        self.exit_code = code
        log.error(GAVE_UP, waiting_for=name, reason=reason, fix=fix, exit_code=code)
        termination.leave(Reason(reason, fix))
        self.on_give_up()

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
            for name in self._faults:
                if self.clock() - self._logged[name] >= AGAIN_SECONDS:
                    self._report(name)
            return 503, {"status": "waiting", **self.reasons}
        return 200, {"status": "ready", **{name: str(why) for name, why in self._lacking.items()}}

    def _report(self, name: str) -> None:
        fault = self._faults[name]
        self._logged[name] = self.clock()
        log.warning(NOT_READY, waiting_for=name, reason=fault.text, fix=fault.fix)
