"""Decides whether a model's requests may be run together, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.repository.manifest import Batching
from inference.row_independence.analysis import Verdict, analyze
from inference.row_independence.graph import Model, read
from inference.row_independence.probe import Feeds, Runner, difference
from inference.row_independence.protobuf import GraphError


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether, and why or why not; ``forced`` where a person has answered for it."""

    batching: bool
    reason: str
    forced: bool = False


def graph_of(path: Path) -> Model | str:
    """The model's graph, or why it cannot be read."""
    try:
        return read(path)
    except (GraphError, OSError) as error:
        return f"its graph cannot be read: {error}"


def decide(
    model: Runner,
    graph: Model | str,
    settings: Batching,
    samples: Sequence[Feeds] = (),
    *,
    row_dimension: bool,
) -> Decision:
    """Whether ``model`` is batched.

    ``row_dimension``: the first dimension of every tensor is one and the same variable; without
    it nothing can be put together, and ``force`` is of no use.
    """
    if not settings.enabled:
        return Decision(False, "switched off in model.json")
    if not row_dimension:
        return Decision(False, "the first dimension of its tensors is not one variable")
    verdict = Verdict(False, graph) if isinstance(graph, str) else analyze(graph)
    if settings.force:
        why = "" if verdict.apart else f", although {verdict.reason}"
        return Decision(True, f"forced by {settings.owner} in model.json{why}", forced=True)
    if not verdict.apart:
        return Decision(False, verdict.reason)
    assert isinstance(graph, Model)
    if found := difference(model, samples, coarse=_rounds(graph)):
        return Decision(False, f"rows give something else together than alone: {found}")
    return Decision(True, "the graph keeps its rows apart, and random rows agree")


def _rounds(model: Model) -> bool:
    """Whether numbers are rounded to steps, so that a last bit may become a full step."""
    return any("Quantize" in node.operator or "QLinear" in node.operator
               for node in model.graph.nodes)  # fmt: skip
