"""The model server: Open Inference Protocol on ONNX Runtime."""
