"""kit.oip.tensors: JSON and bytes to arrays and back, and everything that is refused."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kit.oip.datatypes import NUMPY, of_array
from kit.oip.errors import BadTensorError
from kit.oip.tensors import as_text, from_binary, from_json, to_binary, to_json

NUMERIC = [name for name in NUMPY if name != "BYTES"]


@st.composite
def tensors(draw: st.DrawFn, *, finite: bool = False) -> tuple[str, np.ndarray]:
    datatype = draw(st.sampled_from(NUMERIC))
    dtype = NUMPY[datatype]
    elements = None
    if dtype.kind == "f":
        elements = st.floats(
            width=dtype.itemsize * 8, allow_nan=not finite, allow_infinity=not finite
        )
    return datatype, draw(arrays(dtype, array_shapes(min_dims=0, max_dims=3), elements=elements))


@given(tensors())
def test_binary_goes_both_ways(case: tuple[str, np.ndarray]) -> None:
    datatype, values = case
    assert of_array(values.dtype) == datatype
    back = from_binary("x", datatype, values.shape, to_binary(values))
    assert back.dtype == values.dtype
    assert np.array_equal(back, values, equal_nan=values.dtype.kind == "f")


@given(tensors(finite=True), st.booleans())
def test_json_goes_both_ways(case: tuple[str, np.ndarray], nested: bool) -> None:
    datatype, values = case
    document = to_json(values) if not nested or values.ndim == 0 else values.tolist()
    data = orjson.loads(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
    back = from_json("x", datatype, values.shape, data)
    assert back.dtype == values.dtype
    assert np.array_equal(back, values)


@given(st.lists(st.text(max_size=20), max_size=6))
def test_texts_go_both_ways(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    assert (
        as_text("x", from_binary("x", "BYTES", [len(texts)], to_binary(values))).tolist() == texts
    )
    assert from_json("x", "BYTES", [len(texts)], to_json(values)).tolist() == texts


@given(st.binary(max_size=60), st.integers(0, 4))
def test_any_bytes_are_a_tensor_or_refused_by_name(data: bytes, count: int) -> None:
    for datatype in NUMPY:
        try:
            values = from_binary("x", datatype, [count], data)
        except BadTensorError as error:
            assert "'x'" in str(error)
        else:
            assert values.shape == (count,)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(json_values, st.sampled_from(list(NUMPY)), st.lists(st.integers(0, 3), max_size=3))
def test_any_json_is_a_tensor_or_refused_by_name(
    data: Any, datatype: str, shape: list[int]
) -> None:
    try:
        values = from_json("x", datatype, shape, data)
    except BadTensorError as error:
        assert "'x'" in str(error)
    else:
        assert list(values.shape) == shape
        assert values.dtype == NUMPY[datatype]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "names"),
    [
        ("FP32", [2], [1.0], "holds 2 elements, data has 1"),
        ("FP32", [1], ["1.0"], r"data\[0\] is '1.0', no FP32"),
        ("FP32", [1], [None], r"data\[0\] is null, no FP32"),
        ("FP32", [2], [0.5, 1e39], r"data\[1\] is 1e\+39: out of range for FP32"),
        ("FP16", [1], [70000.0], r"data\[0\] is 70000.0: out of range for FP16"),
        ("INT8", [1], [128], r"data\[0\] is 128: out of range for INT8"),
        ("UINT8", [1], [-1], r"data\[0\] is -1: out of range for UINT8"),
        ("INT32", [1], [1.5], r"data\[0\] is 1.5, no INT32: it takes integers"),
        ("INT64", [1], [2**63], r"data\[0\] is 9223372036854775808: out of range for INT64"),
        ("BOOL", [1], [1], "true or false"),
        ("BYTES", [1], [7], r"data\[0\] is 7: BYTES takes text"),
        ("FP32", [2], [1.5, True], r"data\[1\] is true, no FP32"),
        ("INT64", [2], [False, 1], r"data\[0\] is false, no INT64"),
        ("INT64", [1], [4.0], r"data\[0\] is 4.0, no INT64"),
        ("FP32", [1], [{"a": 1}], r"data\[0\] is a dict, no FP32"),
        ("FP32", [2, 2], [[1, 2], [3]], "nested unevenly"),
        ("FP32", [2, 2], [[1, 2, 3, 4]], r"nested as \[1, 4\]"),
        ("FP32", [1], {"a": 1}, "must be a list, got dict"),
        ("FP32", [1], "1", "must be a list, got str"),
    ],
)
def test_wrong_json_is_refused_by_what_is_wrong(
    datatype: str, shape: list[int], data: Any, names: str
) -> None:
    with pytest.raises(BadTensorError, match=names):
        from_json("x", datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "names"),
    [
        ("FP32", [2], b"\0" * 7, "takes 8 bytes, got 7"),
        ("BYTES", [1], b"\5\0\0\0abc", "says 5 bytes, 3 are left"),
        ("BYTES", [2], b"\1\0\0\0a\1\0\0", "ends before element 1|take at least"),
        ("BYTES", [1], b"\1\0\0\0ab", "1 bytes are left over"),
        ("BYTES", [1_000_000_000], b"", "at most 1000000 are accepted"),
    ],
)
def test_wrong_bytes_are_refused_by_what_is_wrong(
    datatype: str, shape: list[int], data: bytes, names: str
) -> None:
    with pytest.raises(BadTensorError, match=names):
        from_binary("x", datatype, shape, data)


def test_base64_elements_become_bytes() -> None:
    encoded = base64.b64encode(b"\x00\xff").decode()
    assert from_json("x", "BYTES", [1], [encoded], base64_bytes=True).tolist() == [b"\x00\xff"]
    with pytest.raises(BadTensorError, match=r"data\[0\]"):
        from_json("x", "BYTES", [1], ["***"], base64_bytes=True)


def test_bytes_that_are_no_text_are_refused_where_text_is_needed() -> None:
    values = from_binary("x", "BYTES", [1], b"\1\0\0\0\xff")
    with pytest.raises(BadTensorError, match="no UTF-8 text"):
        as_text("x", values)


def test_what_json_cannot_say_becomes_null() -> None:
    data = to_json(np.array([1.0, math.nan, math.inf], np.float32))
    assert orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY) == b"[1.0,null,null]"


def test_a_view_that_is_not_contiguous_is_written_in_row_order() -> None:
    values = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert to_json(values).tolist() == [0, 3, 1, 4, 2, 5]
    assert np.array_equal(from_binary("x", "INT32", [3, 2], to_binary(values)), values)


def test_unaligned_bytes_are_copied_to_where_they_may_lie() -> None:
    data = memoryview(b"\0" + np.array([1.5, 2.5], np.float64).tobytes())[1:]
    values = from_binary("x", "FP64", [2], data)
    assert values.flags.aligned
    assert values.tolist() == [1.5, 2.5]


def test_true_in_binary_is_any_byte_but_zero() -> None:
    assert from_binary("x", "BOOL", [3], b"\0\1\2").tolist() == [False, True, True]
