"""A checked request: its tensors, and which outputs are wanted."""

from __future__ import annotations

from collections.abc import Iterable

from inference.errors import BadRequest, InputsFailed, ModelFailed
from inference.models.served import ServedModel
from inference.repository.manifest import TensorSpec
from kit.oip.inputs import check_all_given, row_count
from kit.oip.non_finite import count_of, message
from kit.oip.tensors import Array, as_text


class InferRequest:
    """A checked request. ``feeds`` are complete unless ``images`` are still to be prepared.

    ``wanted`` are the names asked for, with whether each is to be binary, or None for all;
    ``classes`` are how many of its largest values are wanted of an output, by its name;
    ``timeout`` is in seconds; ``non_finite`` counts the values of the answer that JSON cannot
    say, once it is written.
    """

    __slots__ = ("binary", "classes", "feeds", "id", "images", "key", "non_finite", "rows",
                 "run_outputs", "timeout", "wanted")  # fmt: skip

    def __init__(self) -> None:
        self.id: str | None = None
        self.feeds: dict[str, Array] = {}
        self.images: list[bytes] | None = None
        self.rows = 1
        self.non_finite = 0
        self.key: object = None
        self.wanted: list[tuple[str, bool]] | None = None
        self.run_outputs: tuple[str, ...] = ()
        self.binary = False
        self.classes: dict[str, int] | None = None
        self.timeout: float | None = None


def add_input(spec: TensorSpec, values: Array, *, images: bool, result: InferRequest) -> None:
    """Put a checked tensor into the request."""
    if images:
        result.images = [
            value if isinstance(value, bytes) else value.encode() for value in values.ravel()
        ]
        result.feeds[spec.name] = values
    elif spec.datatype == "BYTES":
        result.feeds[spec.name] = as_text(spec.name, values)
    else:
        result.feeds[spec.name] = values


def settle_inputs(result: InferRequest, served: ServedModel) -> None:
    """Every input is there, with as many rows as the others."""
    feeds = result.feeds
    check_all_given(feeds, served.inputs)
    if not served.batched:
        if result.images is not None and len(result.images) != 1:
            raise BadRequest(f"model {served.name!r} takes one image at a time")
        return
    if result.images is not None:
        result.rows = len(result.images)
        if result.rows == 0:
            raise BadRequest("inputs have no rows: send at least one")
    else:
        result.rows = row_count(feeds)
        if served.variable_shapes:
            result.key = tuple(feeds[name].shape[1:] for name in served.inputs)


def settle_outputs(result: InferRequest, served: ServedModel) -> None:
    """Which of the model's outputs must be run for the ones that are wanted."""
    if result.wanted is None:
        result.run_outputs = served.output_names
        return
    seen: set[str] = set()
    for name, _ in result.wanted:
        if name in seen:
            raise BadRequest(f"output {name!r} is asked for twice")
        if name not in served.outputs_known:
            raise BadRequest(
                f"output {name!r} is unknown: model {served.name!r} gives "
                f"{sorted(served.outputs_known)}"
            )
        seen.add(name)
    if seen <= set(served.output_names):
        result.run_outputs = tuple(name for name in served.output_names if name in seen)
    else:  # what post-processing adds may need any of them
        result.run_outputs = served.output_names


def note_non_finite(served: ServedModel, request: InferRequest, outputs: Iterable[Array]) -> bool:
    """Count what JSON cannot say; an error where the server is set to refuse such answers.

    InputsFailed where the model gives numbers for other inputs, else ModelFailed.
    """
    request.non_finite = sum(map(count_of, outputs))
    if request.non_finite and served.non_finite == "error":
        kind = InputsFailed if served.model.known_input.finite else ModelFailed
        raise kind(message(request.non_finite))
    return request.non_finite > 0
