"""Values laid over each other, as Helm does it. Pure."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]


def laid_over(below: Values, above: Values) -> Values:
    """Mappings are merged key by key, everything else is replaced, null takes a key away."""
    made = dict(below)
    for key, value in above.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict):
            base = made.get(key)
            made[key] = laid_over(base if isinstance(base, dict) else {}, value)
        else:
            made[key] = value
    return made
