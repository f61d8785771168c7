"""The model server: Open Inference Protocol on ONNX Runtime."""

import os

# ONNX Runtime 1.31 reports its use to its makers, from a thread of its own. Nothing about what is
# served leaves the pod unasked; it is read when the library is loaded, so it is said here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
