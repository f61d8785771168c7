"""What MLflow's models are refused for."""

from __future__ import annotations


class MlflowModelError(Exception):
    """A model that cannot be had as ONNX: which one, why, and what to do about it."""
