"""Paths that ask a model: one look-up for most requests."""

from __future__ import annotations

import contextlib

from inference.errors import InferenceError
from inference.models.registry import Registry
from inference.models.served import ServedModel

Target = tuple[str, str | None]
"""Name and version of a model; None for its default version."""


class InferPaths:
    """The infer paths of the models that are served."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._targets: dict[str, Target] = {}
        self._targets_generation = -1
        self._served: dict[bytes, ServedModel] = {}
        self._served_generation = -1

    def find(self, path: str) -> Target | None:
        """Model and version of an infer path there is: one look-up for most requests."""
        if self._targets_generation != self.registry.generation:
            self._targets = {}
            for name, entry in self.registry.entries.items():
                self._targets[f"/v2/models/{name}/infer"] = (name, None)
                for version in entry.serving:
                    self._targets[f"/v2/models/{name}/versions/{version}/infer"] = (name, version)
            self._targets_generation = self.registry.generation
        return self._targets.get(path)

    def served_at(self, path: bytes) -> ServedModel | None:
        """The version behind an infer path, as its bytes stand in a request line."""
        if self._served_generation != self.registry.generation:
            self._served = {}
            self.find("")
            for known_path, (name, version) in self._targets.items():
                with contextlib.suppress(InferenceError):  # it has no version that serves
                    self._served[known_path.encode()] = self.registry.get(name, version)
            self._served_generation = self.registry.generation
        return self._served.get(path)
