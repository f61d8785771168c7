"""Reads the graph of an ONNX file without its weights.

The file is mapped, and of a tensor only its type, dimensions and, where it is small, its numbers
are read: a model of two gigabytes costs no memory here, and the ``onnx`` package (27 MB in the
image, 0.7 s to import, the weights parsed twice) is not needed. Field numbers are those of
onnx.proto, ONNX IR version 13.

A field that ONNX says is there once, but which the file has twice, is refused: protobuf would
merge the two, and this reader must never see another graph than ONNX Runtime does.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.row_independence.protobuf import (
    GraphError,
    check_once,
    fields,
    floats,
    integers,
    signed,
    text,
)

SMALL = 256
"""Tensors with more elements than this are read without them."""

_INTEGERS = {
    2: "<B", 3: "<b", 4: "<H", 5: "<h", 6: "<i", 7: "<q", 9: "<B", 12: "<I", 13: "<Q",
}  # fmt: skip
"""What ``struct`` calls the integer types, and BOOL."""

_FLOAT, _DOUBLE = 1, 11


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant: ``dims``, and ``numbers`` in row-major order where it is small."""

    name: str
    datatype: int
    dims: tuple[int, ...]
    numbers: tuple[int, ...] | tuple[float, ...] | None = None

    @property
    def integral(self) -> bool:
        """Whether its elements are integers or booleans."""
        return self.datatype in _INTEGERS


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """An input or output. ``dims`` is None where the file gives no shape: any rank."""

    name: str
    tensor: bool
    dims: tuple[int | str | None, ...] | None


@dataclass(slots=True)
class Node:
    """An operator in the graph. Attributes hold ints, floats, bytes, tensors, graphs or lists."""

    operator: str = ""
    domain: str = ""
    overload: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    """Attributes that a function takes from its caller, by their name here."""


@dataclass(slots=True)
class Graph:
    """Nodes in the file's order, with the graph's constants, inputs and outputs."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    sparse: list[str] = field(default_factory=list)
    inputs: list[ValueInfo] = field(default_factory=list)
    outputs: list[ValueInfo] = field(default_factory=list)


@dataclass(slots=True)
class Function:
    """An operator that the model defines by other operators."""

    name: str = ""
    domain: str = ""
    overload: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Model:
    """A model: its graph, its functions, and the version of each set of operators."""

    graph: Graph
    opsets: dict[str, int]
    functions: dict[tuple[str, str, str], Function]


def read(path: Path) -> Model:
    """The model's graph. GraphError where the file is none, OSError where it cannot be read."""
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise GraphError("the file is empty") from None
        with mapped, memoryview(mapped) as view:
            return parse(view)


def parse(document: bytes | memoryview) -> Model:
    """The graph of a serialized ModelProto; GraphError where it is none."""
    view = memoryview(document)
    try:
        return _model(view)
    except (struct.error, IndexError, TypeError, ValueError, RecursionError) as error:
        raise GraphError(f"the file is no ONNX model: {error}") from None
    finally:
        view.release()


def _model(view: memoryview) -> Model:
    graph: Graph | None = None
    opsets: dict[str, int] = {}
    functions: dict[tuple[str, str, str], Function] = {}
    for number, value in fields(view):
        if number == 7:
            check_once(graph, "its graph")
            graph = _graph(value)
        elif number == 8:
            _opset(value, opsets)
        elif number == 25:
            function = _function(value)
            functions[function.domain, function.name, function.overload] = function
    if graph is None:
        raise GraphError("the file has no ONNX graph")
    return Model(graph, opsets, functions)


def _opset(view: memoryview, opsets: dict[str, int]) -> None:
    domain, version = "", 0
    for number, value in fields(view):
        if number == 1:
            domain = text(value)
        elif number == 2:
            version = signed(value)
    domain = "" if domain == "ai.onnx" else domain
    if opsets.get(domain, version) != version:
        raise GraphError(f"the file imports two versions of the operators of {domain!r}")
    opsets[domain] = version


def _graph(view: memoryview) -> Graph:
    graph = Graph()
    for number, value in fields(view):
        if number == 1:
            graph.nodes.append(_node(value))
        elif number == 5:
            tensor = _tensor(value)
            graph.constants[tensor.name] = tensor
        elif number == 15:
            graph.sparse.append(_sparse_name(value))
        elif number == 11:
            graph.inputs.append(_value_info(value))
        elif number == 12:
            graph.outputs.append(_value_info(value))
    return graph


def _node(view: memoryview) -> Node:
    node = Node()
    for number, value in fields(view):
        if number == 1:
            node.inputs.append(text(value))
        elif number == 2:
            node.outputs.append(text(value))
        elif number == 3:
            node.name = text(value)
        elif number == 4:
            node.operator = text(value)
        elif number == 7:
            domain = text(value)
            node.domain = "" if domain == "ai.onnx" else domain
        elif number == 8:
            node.overload = text(value)
        elif number == 5:
            name, attribute, reference = _attribute(value)
            if name in node.attributes or name in node.references:
                raise GraphError(f"node {node.name!r} has attribute {name!r} twice")
            if reference:
                node.references[name] = reference
            else:
                node.attributes[name] = attribute
    return node


_SINGLE = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g"}
_LISTS = {6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs"}


def _attribute(view: memoryview) -> tuple[str, Any, str]:
    name, kind, reference = "", 0, ""
    found: dict[str, Any] = {"floats": [], "ints": [], "strings": [], "tensors": [], "graphs": []}
    for number, value in fields(view):
        if number == 1:
            name = text(value)
        elif number == 20:
            kind = value
        elif number == 21:
            reference = text(value)
        elif number == 2:
            found["f"] = value
        elif number == 3:
            found["i"] = signed(value)
        elif number == 4:
            found["s"] = bytes(value)
        elif number == 5:
            check_once(found.get("t"), f"the tensor of attribute {name!r}")
            found["t"] = _tensor(value)
        elif number == 6:
            check_once(found.get("g"), f"the graph of attribute {name!r}")
            found["g"] = _graph(value)
        elif number == 7:
            found["floats"] += floats(value, "<f")
        elif number == 8:
            found["ints"] += integers(value)
        elif number == 9:
            found["strings"].append(bytes(value))
        elif number == 10:
            found["tensors"].append(_tensor(value))
        elif number == 11:
            found["graphs"].append(_graph(value))
    if kind in _SINGLE:
        defaults = {"f": 0.0, "i": 0, "s": b""}
        return name, found.get(_SINGLE[kind], defaults.get(_SINGLE[kind])), reference
    if kind in _LISTS:
        return name, found[_LISTS[kind]], reference
    if reference:
        return name, None, reference
    return name, NotImplemented, reference  # a kind of attribute that no operator here takes


def _tensor(view: memoryview) -> Tensor:
    name, datatype, outside = "", 0, False
    dims: list[int] = []
    raw: memoryview | None = None
    listed: list[tuple[int, Any]] = []
    for number, value in fields(view):
        if number == 1:
            dims += integers(value)
        elif number == 2:
            datatype = value
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = value
        elif number == 14:
            outside = value == 1
        elif number in (4, 5, 7, 10, 11):
            listed.append((number, value))
    count = 1
    for size in dims:
        if size < 0:
            raise GraphError(f"tensor {name!r} has dimensions {dims}")
        count *= size
    numbers: tuple[Any, ...] | None = None
    if not outside and count <= SMALL and (datatype in _INTEGERS or datatype in (_FLOAT, _DOUBLE)):
        numbers = _numbers(datatype, raw, listed)
        if len(numbers) != count:
            raise GraphError(f"tensor {name!r} of {dims} has {len(numbers)} elements")
    return Tensor(name, datatype, tuple(dims), numbers)


def _numbers(
    datatype: int, raw: memoryview | None, listed: list[tuple[int, Any]]
) -> tuple[Any, ...]:
    floating = {_FLOAT: "<f", _DOUBLE: "<d"}.get(datatype)
    code = floating or _INTEGERS[datatype]
    if raw is not None:
        if len(raw) % struct.calcsize(code):
            raise GraphError(f"{len(raw)} raw bytes are no elements of type {datatype}")
        return tuple(number for (number,) in struct.iter_unpack(code, raw))
    if floating:
        wanted = 4 if datatype == _FLOAT else 10
        parts = [value for number, value in listed if number == wanted]
        return tuple(element for part in parts for element in floats(part, code))
    wanted = {7: 7, 12: 11, 13: 11}.get(datatype, 5)
    parts = [value for number, value in listed if number == wanted]
    return tuple(element for part in parts for element in integers(part))


def _sparse_name(view: memoryview) -> str:
    for number, value in fields(view):
        if number == 1:
            return _tensor(value).name
    return ""


def _value_info(view: memoryview) -> ValueInfo:
    name, tensor, dims = "", False, None
    for number, value in fields(view):
        if number == 1:
            name = text(value)
        elif number == 2:
            for kind, inner in fields(value):
                if kind == 1:
                    tensor = True
                    for part, shape in fields(inner):
                        if part == 2:
                            check_once(dims, f"the shape of {name!r}")
                            dims = tuple(_dimension(d) for n, d in fields(shape) if n == 1)
    return ValueInfo(name, tensor, dims)


def _dimension(view: memoryview) -> int | str | None:
    size: int | str | None = None
    for number, value in fields(view):
        if number == 1:
            size = signed(value)
        elif number == 2:
            size = text(value) or None
    return size


def _function(view: memoryview) -> Function:
    function = Function()
    for number, value in fields(view):
        if number == 1:
            function.name = text(value)
        elif number == 4:
            function.inputs.append(text(value))
        elif number == 5:
            function.outputs.append(text(value))
        elif number == 7:
            function.nodes.append(_node(value))
        elif number == 9:
            _opset(value, function.opsets)
        elif number == 10:
            domain = text(value)
            function.domain = "" if domain == "ai.onnx" else domain
        elif number == 11:
            name, attribute, _ = _attribute(value)
            function.defaults[name] = attribute
        elif number == 13:
            function.overload = text(value)
    return function
