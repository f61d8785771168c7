"""What a model is asked: the samples of its ``model.json``, or inputs made up by its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_MOST_VALUES = 4_000_000


def of_model(manifests: str, name: str) -> list[str]:
    """The samples of the models of that name, as requests' bodies.

    ``manifests`` are several ``model.json``, one behind the other.
    """
    decoder = json.JSONDecoder()
    found: list[str] = []
    rest = manifests.lstrip()
    while rest:
        try:
            manifest, end = decoder.raw_decode(rest)
        except ValueError:
            return found
        rest = rest[end:].lstrip()
        if isinstance(manifest, dict) and manifest.get("name") == name:
            found += [json.dumps({"inputs": one["inputs"]}) for one in manifest.get("samples", ())]
    return found


def made_up(metadata: Mapping[str, Any]) -> str:
    """A request with zeros (and empty texts) of the shapes that a model's metadata names.

    A dimension that may be of any size is 1.
    """
    inputs = []
    for tensor in metadata.get("inputs") or ():
        shape = [max(1, int(size)) for size in tensor["shape"]]
        count = 1
        for size in shape:
            count *= size
        if count > _MOST_VALUES:
            shape, count = [1] * len(shape), 1
        value: Any = {"BYTES": "", "BOOL": False}.get(tensor["datatype"], 0)
        inputs.append(
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": shape,
                "data": [value] * count,
            }
        )
    return json.dumps({"inputs": inputs})
