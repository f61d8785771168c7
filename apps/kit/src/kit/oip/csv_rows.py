"""CSV as a model's input: one line a row, and nothing about it is guessed.

Source: RFC 4180, with its ``header`` and ``charset`` parameters of ``text/csv``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from email.message import Message
from itertools import chain
from typing import Any, TypeVar

from kit.oip.errors import BadElementError, BadTensorError
from kit.oip.inputs import Spec
from kit.oip.tensors import Array, array_of

S = TypeVar("S", bound=Spec)
Lines = list[tuple[int, list[str]]]
"""Each row's cells, with the number of the line on which it ends."""

_LINE = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n)|[^\r\n]++")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_NAMES, _LONGEST_NAME = 20, 40
"""Names of a header, and characters of a name, that a message shows."""
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def read_csv(
    body: bytes,
    content_type: str,
    inputs: Mapping[str, S],
    *,
    model: str,
    columns: Sequence[str] = (),
) -> list[tuple[S, Array]]:
    """The tensors in a CSV body. BadTensorError names the line and the cell that is wrong.

    The first row is a header where ``content_type`` says ``header=present``, or where its cells
    are the model's input or column names, none of them a number; else it is data. The names of a
    header must be the model's where those are known; else cells count by their position.
    Cells are separated by commas, or by semicolons where only those give a row as many cells as
    the model takes, or a CSV at all. An input of any rank gets a table. A model with several
    inputs of one value a row takes a column for each, named by the header.
    """
    text = decode_text(body, content_type)
    header = _parameters(content_type).get("header", "")
    if header not in ("", "present", "absent"):
        raise BadTensorError(f"Content-Type says header={header[:40]}: it is present or absent")
    if len(inputs) == 1:
        (spec,) = inputs.values()
        lines = _lines(text, _width(spec), numeric=spec.datatype != "BYTES")
        known = [[spec.name], sorted(columns)]
    else:
        spec = None
        lines = _lines(text, len(inputs), numeric=True)
        known = [sorted(inputs)]
    names = [cell.strip() for cell in lines[0][1]]
    is_header = header == "present" or (
        not header and sorted(names) in known and not any(map(_NUMBER.fullmatch, names))
    )
    rows = lines[1:] if is_header else lines
    if not rows:
        raise BadTensorError("the CSV has a header and no rows")
    if spec is not None:
        by_name = is_header and names != [spec.name]
        order = reordered(names, columns, model=model) if by_name else None
        return [(spec, _one_input(spec, rows, order))]
    if not is_header or sorted(names) != sorted(inputs):
        given = f"the header names {_listed(names)}; " if is_header else ""
        raise BadTensorError(
            f"{given}model {model!r} takes the inputs {sorted(inputs)}: the CSV needs a first row "
            "with these names (Content-Type: text/csv; header=present), or send JSON"
        )
    return [(inputs[name], _column(inputs[name], rows, at)) for at, name in enumerate(names)]


def reordered(names: Sequence[str], columns: Sequence[str], *, model: str) -> list[int] | None:
    """Where each of the model's columns stands in a header; None where they stand as they are.

    BadTensorError where the model's columns are known and the header names others.
    """
    if not columns or list(names) == list(columns):
        return None
    if sorted(names) != sorted(columns) or len(set(columns)) != len(columns):
        raise BadTensorError(
            f"the header names {_listed(names)}; model {model!r} has the columns "
            f"{_listed(columns)}: give each of these once, or leave the header out "
            "(Content-Type: text/csv; header=absent) and send the cells in this order"
        )
    return [list(names).index(name) for name in columns]


def _listed(names: Sequence[str]) -> str:
    """Names for a message, of which there may be thousands."""
    shown = [name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…" for name in names]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{shown[:_MOST_NAMES]}{more}"


def _parameters(content_type: str) -> dict[str, str]:
    message = Message()
    message["content-type"] = content_type.replace("\r", " ").replace("\n", " ")
    found = message.get_params(failobj=[])
    return {name.lower(): str(value).strip().lower() for name, value in found[1:]}


def decode_text(body: bytes, content_type: str) -> str:
    """A body of text, without a byte order mark; BadTensorError where it is not UTF-8."""
    charset = _parameters(content_type).get("charset", "utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise BadTensorError(f"the body's charset is {charset[:40]}: send it in UTF-8")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTensorError(f"the body is no text in UTF-8: {error}") from None


def _lines(text: str, width: int | None, *, numeric: bool) -> Lines:
    """The rows, of one width; empty lines at the end count for nothing."""
    lines = _split_well(text, _delimiter(text, width, numeric=numeric))
    while lines and not lines[-1][1]:
        lines.pop()
    if not lines:
        raise BadTensorError("the CSV has no lines")
    wanted = len(lines[0][1]) if width is None else width
    for number, cells in lines:
        if len(cells) != wanted:
            takes = f"the model takes {width}" if width is not None else f"line 1 has {wanted}"
            raise BadTensorError(f"CSV line {number} has {len(cells)} values, {takes}")
    return lines


def _split(text: str, delimiter: str) -> Lines:
    reader = csv.reader(_line_by_line(text), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise BadTensorError(f"CSV line {reader.line_num}: {error}") from None


def _line_by_line(text: str) -> Iterator[str]:
    """Lines with their ends, as io.StringIO gives them, which takes four bytes a character."""
    at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        line = text[at:end]
        at = end
        feed = line.find("\r")
        if feed < 0 or line[feed:] in ("\r\n", "\r"):
            yield line
        else:
            yield from (match[0] for match in _LINE.finditer(line))


def _split_well(text: str, delimiter: str) -> Lines:
    """The rows by this delimiter, or by semicolons where the text is a CSV only with those."""
    try:
        return _split(text, delimiter)
    except BadTensorError:
        if delimiter == ";" or ";" not in text:
            raise
        try:
            return _split(text, ";")
        except BadTensorError:
            pass
        raise


def _delimiter(text: str, width: int | None, *, numeric: bool) -> str:
    """The semicolon where the first row suits the model with it and not with the comma."""
    if ";" not in text:
        return ","
    commas = _cells_of_first(text, ",")
    if commas is not None and commas == width:
        return ","
    semicolons = _cells_of_first(text, ";")
    if width is None:
        return ";" if numeric and commas == 1 and (semicolons or 0) > 1 else ","
    return ";" if semicolons == width else ","


def _cells_of_first(text: str, delimiter: str) -> int | None:
    """Cells of the first row, or None where it is none by this delimiter."""
    try:
        reader = csv.reader(_line_by_line(text), delimiter=delimiter, strict=True)
        return len(next(reader, []))
    except csv.Error:
        return None


def _table(spec: Spec) -> list[int]:
    return [-1, -1] if getattr(spec, "free_rank", False) else list(spec.shape)


def _width(spec: Spec) -> int | None:
    """Cells of a row, or None where any number of them will do."""
    inner = _table(spec)[1:]
    free = sum(size < 0 for size in inner)
    if free and len(inner) > 1:
        raise BadTensorError(
            f"input {spec.name!r} has shape {list(spec.shape)}: a CSV line does not say how its "
            "values fill that, send JSON"
        )
    return None if free else math.prod(inner)


def _one_input(spec: Spec, rows: Lines, order: list[int] | None) -> Array:
    if order is not None:
        rows = [(number, [cells[at] for at in order]) for number, cells in rows]
    width = len(rows[0][1])
    values = _values(spec, rows, range(width))
    shape = _table(spec)
    if not shape:
        if len(rows) != 1:
            raise BadTensorError(f"input {spec.name!r} is one value, the CSV has {len(rows)} rows")
        return values.reshape(())
    if shape[0] >= 0 and len(rows) != shape[0]:
        raise BadTensorError(f"input {spec.name!r} has shape {shape}, the CSV has {len(rows)} rows")
    inner = [width] if len(shape) == 2 else shape[1:]
    return values.reshape([len(rows), *inner])


def _column(spec: Spec, rows: Lines, at: int) -> Array:
    shape = list(spec.shape)
    if shape[:1] == [] or shape[1:] not in ([], [1]) or shape[0] not in (-1, len(rows)):
        raise BadTensorError(
            f"input {spec.name!r} has shape {shape}: a CSV column holds one value a row, send JSON"
        )
    return _values(spec, rows, [at]).reshape([len(rows), *shape[1:]])


def _values(spec: Spec, rows: Lines, columns: Sequence[int]) -> Array:
    """The cells of these columns, row after row, as the input's datatype."""
    cells = list(chain.from_iterable([row[at] for at in columns] for _, row in rows))
    convert = _CONVERTERS.get(spec.datatype, _whole if "INT" in spec.datatype else _float)
    try:
        data = [convert(cell) for cell in cells]
        return array_of(spec.datatype, data, document=b"" if convert is not _boolean else None)
    except BadElementError as error:
        position = error.position
    except ValueError:
        position = next(n for n, cell in enumerate(cells) if not _is_value(convert, cell))
    row, column = divmod(position, len(columns))
    line, cell, at = rows[row][0], cells[position], columns[column] + 1
    shown = f"{cell[:40]!r}" if cell.strip() else "empty"
    bad_range = _is_value(convert, cell)
    raise BadTensorError(
        f"CSV line {line}, cell {at} is {shown}: "
        + (f"out of range for {spec.datatype}" if bad_range else f"no {spec.datatype}")
        + ("" if row or bad_range else _HEADER_HINT)
    )


_HEADER_HINT = " (if the first line holds names, say so: Content-Type: text/csv; header=present)"


def _is_value(convert: Any, cell: str) -> bool:
    try:
        convert(cell)
    except ValueError:
        return False
    return True


def _float(cell: str) -> float:
    if not _NUMBER.fullmatch(cell.strip()):
        raise ValueError(cell)
    return float(cell)


def _whole(cell: str) -> int:
    if not _WHOLE.fullmatch(cell.strip()):
        raise ValueError(cell)
    return int(cell)


def _boolean(cell: str) -> bool:
    value = _BOOLEANS.get(cell.strip().lower())
    if value is None:
        raise ValueError(cell)
    return value


def _text(cell: str) -> str:
    return cell


_CONVERTERS: dict[str, Any] = {"BYTES": _text, "BOOL": _boolean}
