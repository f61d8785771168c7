"""Inputs of predictions: which forms are accepted, and an input as the model's server gets it."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from kit.http.problem import Problem
from kit.oip.messages import Packed, pack
from kit.oip.tensors import from_binary

IMAGES = ("image/png", "image/jpeg", "image/webp")
JSON = "application/json"
CSV = "text/csv"
TEXT = "text/plain"
ACCEPTED = (*IMAGES, JSON, CSV, TEXT)
MOST_PARAMETERS = 200
"""Characters of a Content-Type's parameters: it is kept with a job."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An input as the model server will get it."""

    inputs: Packed
    rows: int

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(len(raw) for _, _, raw in self.inputs.values())

    def canonical(self) -> bytes:
        """The same bytes for the same input, whatever form it came in: what a cache keys by."""
        parts: list[bytes] = []
        for name in sorted(self.inputs):
            datatype, shape, raw = self.inputs[name]
            parts.append(f"{name}\0{datatype}\0{','.join(map(str, shape))}\0".encode())
            parts.append(raw)
        return b"".join(parts)

    def dump(self) -> bytes:
        """For keeping elsewhere: a JSON line, then the tensors."""
        header = {
            "rows": self.rows,
            "inputs": [[n, d, list(s), len(raw)] for n, (d, s, raw) in self.inputs.items()],
        }
        return orjson.dumps(header) + b"\n" + b"".join(raw for _, _, raw in self.inputs.values())

    @classmethod
    def load(cls, data: bytes) -> Prepared:
        """What ``dump`` made."""
        line, _, rest = data.partition(b"\n")
        header = orjson.loads(line)
        inputs: Packed = {}
        offset = 0
        for name, datatype, shape, size in header["inputs"]:
            inputs[name] = (datatype, tuple(shape), rest[offset : offset + size])
            offset += size
        return cls(inputs, int(header["rows"]))

    def part(self, start: int, stop: int) -> Prepared:
        """Rows ``start`` to ``stop`` of a batch."""
        inputs: Packed = {}
        for name, (datatype, shape, raw) in self.inputs.items():
            if datatype == "BYTES":
                inputs |= pack(name, from_binary(name, datatype, shape, raw)[start:stop], datatype)
                continue
            size = len(raw) // shape[0]
            rows = min(stop, shape[0]) - start
            inputs[name] = (datatype, (rows, *shape[1:]), raw[start * size : stop * size])
        return Prepared(inputs, min(stop, self.rows) - start)


def media_type(content_type: str | None) -> str:
    """The lower-case media type, with its parameters where they say how a text is to be read.

    Problem 415 where it is none that is accepted.
    """
    bare, _, parameters = (content_type or "").partition(";")
    bare = bare.strip().lower()
    if bare not in ACCEPTED or len(parameters) > MOST_PARAMETERS:
        raise Problem(
            415,
            "unsupported-media-type",
            f"Content-Type {bare or 'is missing'}: send one of {', '.join(ACCEPTED)}",
            headers={"accept": ", ".join(ACCEPTED)},
        )
    return f"{bare};{parameters}" if parameters and bare in (CSV, TEXT) else bare
