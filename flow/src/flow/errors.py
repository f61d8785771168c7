"""What can go wrong in a stage."""

from __future__ import annotations


class FlowError(Exception):
    """A stage that failed; the message names the cause and the fix."""
