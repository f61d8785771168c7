"""Trains, evaluates, registers and publishes a model."""

import os

# ONNX Runtime 1.31 reports its use to its makers unless that is switched off before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
