"""Generates the messages.

``uv run --with grpcio-tools==1.85.1 python -m inference.protocols.oip``
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def main() -> int:
    """Run protoc on the proto; its status is ours."""
    source = Path(__file__).parents[3]
    protoc = import_module("grpc_tools.protoc")
    status: int = protoc.main(
        [
            "protoc",
            f"--proto_path={source}",
            f"--python_out={source}",
            f"--pyi_out={source}",
            str(Path(__file__).with_name("grpc_predict_v2.proto")),
        ]
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
