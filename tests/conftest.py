"""Fixtures for every suite."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes is the machine's matter: hypothesis' 200 ms fail on one that is busy.
settings.register_profile("slipway", deadline=None)
settings.load_profile("slipway")
