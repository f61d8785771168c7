"""The share of requests that a variant gets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from release.changes.transaction import Plan, Row
from release.errors import BadValuesError, NotFoundError
from release.git import message as msg
from release.git.commit_tree import CommitTree
from release.values import holds, scalars, tree

STEPS = (5, 25, 50, 100)


@dataclass(frozen=True)
class Weights:
    """Shift a service's split towards a variant; the service itself keeps what is left.

    ``weight`` is the variant's share in percent; None takes the next of `STEPS`. ``abort`` sends
    everything back to the service itself.
    """

    environment: str
    service: str
    variant: str
    now: datetime
    weight: int | None = None
    abort: bool = False

    def __call__(self, at: CommitTree) -> Plan:
        """Raises BadValuesError when routing.yaml has no such split, HeldError on a hold."""
        tree.require_environment(at, self.environment)
        path = f"values/{self.environment}/routing.yaml"
        data = at.read(path)
        if data is None:
            raise NotFoundError(f"{path} does not exist.")
        values = scalars.load(data, path)
        split = ((values.get("services") or {}).get(self.service) or {}).get("split")
        if not isinstance(split, dict) or self.service not in split or self.variant not in split:
            raise BadValuesError(
                f"{path} has no services.{self.service}.split with {self.service} and "
                f"{self.variant} in it.",
                fix=f"add `split: {{{self.service}: 100, {self.variant}: 0}}` first",
            )
        old = int(split[self.variant])
        new = self._weight(old)
        others = sum(int(v) for k, v in split.items() if k not in (self.service, self.variant))
        if new + others > 100:
            raise BadValuesError(
                f"{self.variant} cannot get {new} percent: other variants have {others}."
            )
        if not self.abort:
            held = holds.read(at, self.environment)
            for release in ("routing", self.service, self.variant):
                if hold := holds.covering(held, release, self.now):
                    raise holds.refuse(self.environment, release, hold)
        where = ("services", self.service, "split")
        edited = scalars.edit(
            data,
            {(*where, self.variant): new, (*where, self.service): 100 - new - others},
            path,
        )
        message = msg.Message(
            f"{self.environment}: Send {new} % of {self.service} to {self.variant}"
            + (" (aborted)" if self.abort else ""),
            [
                (msg.OPERATION, "weights"),
                (msg.ENVIRONMENT, self.environment),
                (msg.SERVICES, self.service),
            ],
        )
        rows = [Row(self.variant, "weight", f"{old} %", f"{new} %")] if old != new else []
        return Plan({path: edited} if rows else {}, message, rows)

    def _weight(self, old: int) -> int:
        if self.abort:
            return 0
        if self.weight is not None:
            return self.weight
        return next((step for step in STEPS if step > old), 100)
