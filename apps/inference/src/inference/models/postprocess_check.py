"""Whether the steps of ``postprocess`` go together with the model's outputs and ``labels``.

What does not would be found by the first caller only, as a failed prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference.errors import ModelError
from inference.repository import manifest as manifests
from inference.repository.manifest import Manifest, TensorSpec
from kit.transforms import Finish, LabelLookup

Shapes = dict[str, tuple[int, ...] | None]
"""Shapes by name; -1 is a dimension of any size, None a shape that is not known."""


def check_postprocess(described: Manifest, finish: Finish, outputs: Sequence[TensorSpec]) -> None:
    """ModelError where a step has no input, or as many labels as it cannot have."""
    shapes: Shapes = {spec.name: None if spec.free_rank else tuple(spec.shape) for spec in outputs}
    for step in finish.steps:
        if step.input not in shapes:
            raise ModelError(
                f"{manifests.FILE}: postprocess: {step.transform}: there is no output "
                f"{step.input!r}, only {sorted(shapes)}"
            )
        if isinstance(step, LabelLookup):
            _check_labels(step, step.labels or described.labels, shapes[step.input])
        shapes |= dict.fromkeys(finish.outputs)
        if not isinstance(step, LabelLookup):
            shapes[step.output] = shapes[step.input]


def _check_labels(step: LabelLookup, labels: Sequence[str], shape: tuple[int, ...] | None) -> None:
    if shape is not None and len(shape) != 2:
        raise ModelError(
            f"{manifests.FILE}: postprocess: label_lookup takes an output of rows and classes, and "
            f"{step.input!r} has the shape {list(shape)}"
        )
    columns = shape[-1] if shape else -1
    if not labels:
        wanted = f"{columns} of them" if columns >= 0 else "one for each column"
        raise ModelError(
            f"{manifests.FILE}: postprocess: label_lookup looks up labels, and there are none: "
            f'give "labels", {wanted} for the output {step.input!r}'
        )
    if columns >= 0 and columns != len(labels):
        raise ModelError(
            f"{manifests.FILE}: labels: there are {len(labels)}, and the output {step.input!r} "
            f"has {columns} columns"
        )
