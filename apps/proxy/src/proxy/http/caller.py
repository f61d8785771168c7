"""Who a request comes from, once its credential was checked, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.policies import RateLimit


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody known: ``name`` for logs and limits, and what they may do."""

    name: str
    scopes: frozenset[str]
    rate_limit: RateLimit | None = None

    def may(self, action: str, thing: str) -> bool:
        """Whether a scope allows ``action:thing``, ``action:*`` or everything (``*``)."""
        return (
            "*" in self.scopes or f"{action}:*" in self.scopes or f"{action}:{thing}" in self.scopes
        )
