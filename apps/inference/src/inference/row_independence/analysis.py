"""Follows the rows of a batch through a model's graph: whether they stay apart.

Every operator is one whose effect on rows is written down, or the answer is no: an operator
without a rule, one of a stranger's, a random one, one whose axis the data decide. The
reason names the node.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inference.row_independence.graph import Graph, Model, Node, ValueInfo
from inference.row_independence.loops import join, one_step, stacked
from inference.row_independence.rules import (  # noqa: F401 - they register their rules
    convolutions,
    elementwise,
    products,
    reductions,
    reshaping,
    selection,
    tabular,
)
from inference.row_independence.rules.operators import (
    HANDLERS,
    MICROSOFT,
    ML,
    Call,
    constant,
    unknown_dim,
)
from inference.row_independence.values import FIXED, Dim, MixesError, N, Value, fixed, rows

_VERSIONS = {"": range(7, 29), ML: range(1, 6), MICROSOFT: range(1, 2)}
"""Versions of the sets of operators that the rules were written for."""

_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip
_REPEATABLE = {
    "AffineGrid", "BitCast", "BlackmanWindow", "Compress", "EyeLike", "HammingWindow", "HannWindow",
    "MelWeightMatrix", "NonZero", "ScatterND", "Unique",
}  # fmt: skip
"""Without a rule for rows, but the same every time for inputs that are the same every time."""

_DEPTH = 16
_ROUNDS = 8
MOST_STEPS = 200_000
"""Nodes that are followed, each as often as a function is called or a loop goes round.

Functions that call one another twice, and loops inside loops, would else take forever."""
_MOST_DIMENSIONS = 64
_MOST_ELEMENTS = 1024
_MOST_SYMBOLS = 64
_LARGEST_FACTOR = 1 << 63


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether rows stay apart, and if not, why."""

    apart: bool
    reason: str


class TooLongError(Exception):
    """The graph takes too long to follow; the message says by how much."""


def analyze(model: Model) -> Verdict:
    """Whether a batch gives each row what it would get alone, by the graph."""
    graph = model.graph
    values: dict[str, Value] = {}
    for info in graph.inputs:
        if info.name in graph.constants:
            continue
        if isinstance(found := _input(info), str):
            return Verdict(False, found)
        values[info.name] = found
    if not values:
        return Verdict(False, "it has no inputs")
    analysis = _Analysis(model, model.opsets, {}, 0, itertools.count())
    try:
        made = analysis.run(graph, _Scope(values, None))
    except TooLongError as error:
        return Verdict(False, str(error))
    for info, value in zip(graph.outputs, made, strict=True):
        if value.reason is not None:
            return Verdict(False, value.reason)
        if value.axis is None:
            return Verdict(False, f"output {info.name!r} is the same for every row")
        if value.axis != 0:
            return Verdict(False, f"output {info.name!r} has its rows at axis {value.axis}, not 0")
        if value.shape is None or value.shape[0] != N:
            return Verdict(False, f"output {info.name!r} may not have one element for each row")
    return Verdict(True, "the graph keeps its rows apart")


def _input(info: ValueInfo) -> Value | str:
    if not info.tensor:
        return f"input {info.name!r} is no tensor"
    if not info.dims:
        return f"input {info.name!r} has no dimension of rows"
    if isinstance(info.dims[0], int) and info.dims[0] > 0:
        return f"input {info.name!r} has {info.dims[0]} rows, always"
    rest = [Dim(d) if isinstance(d, int) and d > 0 else unknown_dim() for d in info.dims[1:]]
    return rows([N, *rest], 0)


class _Scope:
    """Values by name, and those of the graphs around."""

    def __init__(self, values: dict[str, Value], outer: _Scope | None) -> None:
        self._values = values
        self._outer = outer

    def get(self, name: str) -> Value:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope._values:
                return scope._values[name]
            scope = scope._outer
        return Value(reason=f"{name!r} is used before it is made")

    def put(self, name: str, value: Value) -> None:
        if name in self._values:
            value = Value(reason=f"{name!r} is made twice")
        self._values[name] = value


@dataclass(frozen=True, slots=True)
class _Analysis:
    """The rules with what surrounds a graph: versions of operators, a function's attributes."""

    model: Model
    opsets: Mapping[str, int]
    attributes: Mapping[str, Any]
    depth: int
    steps: Iterator[int]
    """Counts the nodes that were followed."""

    def run(self, graph: Graph, scope: _Scope) -> list[Value]:
        """The graph's outputs."""
        for name, tensor in graph.constants.items():
            scope.put(name, constant(tensor))
        for name in graph.sparse:
            scope.put(name, FIXED)
        for node in graph.nodes:
            self.step(node, scope)
        return [scope.get(info.name) for info in graph.outputs]

    def step(self, node: Node, scope: _Scope) -> None:
        """Put a node's outputs into the scope."""
        if next(self.steps) > MOST_STEPS:
            raise TooLongError(f"its loops and functions have more than {MOST_STEPS} steps")
        inputs = [scope.get(name) if name else None for name in node.inputs]
        reason = next((value.reason for value in inputs if value and value.reason), None)
        made: list[Value]
        if reason is not None:
            made = []
        else:
            try:
                made = self.apply(node, inputs, scope)
            except TooLongError:
                raise
            except MixesError as error:
                made, reason = [], f"{_label(node)}: {error}"
            except Exception as error:  # a rule that does not understand a node proves nothing
                made, reason = [], f"{_label(node)} is not understood: {error!r}"
        for position, name in enumerate(node.outputs):
            if not name:
                continue
            value = made[position] if position < len(made) else None
            if value is None:
                why = reason or f"{_label(node)}: its output {position} is not followed"
                value = Value(reason=why)
            elif _too_large(value):
                value = (
                    FIXED
                    if value.fixed
                    else Value(
                        reason=f"{_label(node)}: its shape or contents are too large to be followed"
                    )
                )
            elif value.reason is not None and not value.reason.startswith("node "):
                value = replace(value, reason=f"{_label(node)}: {value.reason}")
            scope.put(name, value)

    def apply(self, node: Node, inputs: list[Value | None], scope: _Scope) -> list[Value]:
        """A node's outputs; MixesError where rows may meet."""
        attributes = dict(node.attributes)
        for name, reference in node.references.items():
            if reference in self.attributes:
                attributes[name] = self.attributes[reference]
        if any(value is NotImplemented for value in attributes.values()):
            raise MixesError("it has an attribute of an unknown kind")
        key = (node.domain, node.operator, node.overload)
        handler = HANDLERS.get((node.domain, node.operator))
        if key in self.model.functions:
            if handler is not None or node.domain in _VERSIONS:
                raise MixesError("the model defines an operator of ONNX's own name")
            return self.call_function(node, inputs, attributes)
        if node.domain not in _VERSIONS:
            raise MixesError(f"no rule says what operators of domain {node.domain!r} do to rows")
        version = self.opsets.get(node.domain, 1 if node.domain == MICROSOFT else 0)
        if version not in _VERSIONS[node.domain]:
            raise MixesError(f"version {version} of its operators is not one the rules are for")
        call = Call(node, version, inputs, attributes)
        if node.domain == "" and node.operator in _CONTROL:
            return _CONTROL[node.operator](self, call, scope)
        if node.operator in _RANDOM:
            raise MixesError("it is random, so a batch draws other numbers")
        steady = all(value is None or value.fixed for value in inputs)
        if handler is None:
            if steady and node.domain == "" and node.operator in _REPEATABLE:
                return [FIXED] * len(node.outputs)
            raise MixesError("no rule says what it does to rows")
        try:
            made = handler(call)
        except TooLongError:
            raise
        except Exception:
            if not steady or node.operator == "Dropout":
                raise
            return [FIXED] * len(node.outputs)  # weights: whatever it is, it is so every time
        return made if isinstance(made, list) else [made]

    def call_function(
        self, node: Node, inputs: list[Value | None], attributes: dict[str, Any]
    ) -> list[Value]:
        """What a function of the model's own makes of its inputs."""
        if self.depth >= _DEPTH:
            raise MixesError("its functions call one another too deep")
        function = self.model.functions[node.domain, node.operator, node.overload]
        scope = _Scope({}, None)
        for position, name in enumerate(function.inputs):
            given = inputs[position] if position < len(inputs) else None
            if given is not None:
                scope.put(name, given)
        inner = _Analysis(
            self.model,
            {**self.opsets, **function.opsets},
            {**function.defaults, **attributes},
            self.depth + 1,
            self.steps,
        )
        for part in function.nodes:
            inner.step(_without_absent(part, function.inputs, inputs), scope)
        return [scope.get(name) for name in function.outputs]

    def branch(self, call: Call, scope: _Scope) -> list[Value]:
        """``If``: the same branch for the batch as alone, and both keep rows apart."""
        call.fixed(0)
        made: list[list[Value]] = []
        for name in ("then_branch", "else_branch"):
            made.append(self.inner().run(_graph(call, name), _Scope({}, scope)))
        if len(made[0]) != len(made[1]):
            raise MixesError("its branches have different outputs")
        return [join(one, other, None) for one, other in zip(*made, strict=True)]

    def loop(self, call: Call, scope: _Scope) -> list[Value]:
        """``Loop``: as many rounds for the batch as alone, and each keeps rows apart."""
        for position in (0, 1):
            if call.given(position):
                call.fixed(position)
        body = _graph(call, "body")
        states = [call.value(position) for position in range(2, len(call.inputs))]
        fixed_inputs = [fixed(()), fixed(())]
        states, made = self.rounds(body, fixed_inputs, states, [], scope, skip=1)
        if not made[0].fixed:
            raise MixesError(made[0].reason or "its rows decide how many rounds there are")
        return [*states, *(stacked(value, 0) for value in made[1 + len(states) :])]

    def scan(self, call: Call, scope: _Scope) -> list[Value]:
        """``Scan``: along another axis than the rows', and each round keeps them apart."""
        if call.opset < 9:
            raise MixesError("version 8 of it is not followed")
        count = call.number("num_scan_inputs", 0)
        split = len(call.inputs) - count
        body = _graph(call, "body")
        states = [call.value(position) for position in range(split)]
        axes = call.list_of("scan_input_axes") or [0] * count
        parts = [one_step(call.data(split + position), axes[position]) for position in range(count)]
        states, made = self.rounds(body, [], states, parts, scope, skip=0)
        outputs = made[len(states) :]
        where = call.list_of("scan_output_axes") or [0] * len(outputs)
        return [*states, *(stacked(v, axis) for v, axis in zip(outputs, where, strict=True))]

    def rounds(
        self,
        body: Graph,
        first: Sequence[Value],
        states: Sequence[Value],
        parts: Sequence[Value],
        scope: _Scope,
        *,
        skip: int,
    ) -> tuple[list[Value], list[Value]]:
        """What states hold after any number of rounds, and the body's outputs then."""
        now = list(states)
        widened: set[str] = set()
        names = [info.name for info in body.inputs]
        if len(names) != len(first) + len(now) + len(parts):
            raise MixesError("its body takes another number of inputs")
        for _ in range(_ROUNDS):
            given = dict(zip(names, [*first, *now, *parts], strict=True))
            made = self.inner().run(body, _Scope(given, scope))
            after = [
                join(one, other, widened)
                for one, other in zip(now, made[skip : skip + len(now)], strict=True)
            ]
            for value in after:
                if value.reason is not None:
                    raise MixesError(value.reason)
            if after == now:
                return now, made
            now = after
        raise MixesError("what its rounds do to rows does not settle")

    def inner(self) -> _Analysis:
        """The same, one graph deeper."""
        if self.depth >= _DEPTH:
            raise MixesError("its graphs lie in one another too deep")
        return replace(self, depth=self.depth + 1)


_CONTROL = {"If": _Analysis.branch, "Loop": _Analysis.loop, "Scan": _Analysis.scan}


def _too_large(value: Value) -> bool:
    """Whether more is known of it than a model for people has: some sizes grow exponentially."""
    if len(value.shape or ()) > _MOST_DIMENSIONS or len(value.elements or ()) > _MOST_ELEMENTS:
        return True
    dims = (*(value.shape or ()), *(e for e in value.elements or () if isinstance(e, Dim)))
    return any(
        len(dim.symbols) > _MOST_SYMBOLS or abs(dim.factor) > _LARGEST_FACTOR for dim in dims
    )


def _label(node: Node) -> str:
    name = node.name or next((output for output in node.outputs if output), "")
    domain = f"{node.domain}." if node.domain else ""
    return f"node {name[:100]!r} ({domain}{node.operator})"


def _graph(call: Call, name: str) -> Graph:
    found = call.attributes.get(name)
    if not isinstance(found, Graph):
        raise MixesError(f"its {name} is no graph")
    return found


def _without_absent(node: Node, names: Sequence[str], given: Sequence[Value | None]) -> Node:
    """The node with inputs that its function was not given left empty."""
    absent = {
        name
        for position, name in enumerate(names)
        if position >= len(given) or given[position] is None
    }
    if not absent & set(node.inputs):
        return node
    return replace(node, inputs=["" if name in absent else name for name in node.inputs])
