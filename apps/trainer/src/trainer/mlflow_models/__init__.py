"""Models of an MLflow registry or run as ONNX files."""
