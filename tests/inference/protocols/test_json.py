"""inference.protocols.json: whichever parser it was, the request and the message are the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import BadRequest
from inference.protocols.json import LARGE, loads
from kit.oip.errors import BadTensorError
from kit.oip.tensors import from_json

PAD = " " * LARGE
floats = st.floats(allow_nan=False, allow_infinity=False, width=64)
numbers = st.one_of(floats, st.integers(-(2**63), 2**64 - 1))


def document(data: object, datatype: str = "FP32", **more: Any) -> bytes:
    tensor = {"name": "x", "datatype": datatype, "shape": [4], "data": data}
    return (json.dumps({"inputs": [tensor], **more}) + PAD).encode()


def data_of(request: Any) -> Any:
    return request["inputs"][0]["data"]


def test_floats_of_a_large_request_come_as_an_array() -> None:
    request = loads(document([1, 2.5, -3e10, 0]))
    assert isinstance(data_of(request), np.ndarray)
    assert data_of(request).tolist() == [1, 2.5, -3e10, 0]


@pytest.mark.parametrize("datatype", ["INT64", "BOOL", "BYTES", "UINT8", "none"])
def test_what_is_no_float_comes_as_a_list(datatype: str) -> None:
    assert data_of(loads(document([9007199254740993], datatype))) == [9007199254740993]


@given(st.lists(numbers, min_size=1), st.sampled_from(["FP16", "FP32", "FP64"]))
def test_both_parsers_give_the_same_tensor(data: list[float], datatype: str) -> None:
    large = document(data, datatype)

    def tensor(request: Any) -> Any:
        try:
            return from_json("x", datatype, [len(data)], data_of(request)).tobytes()
        except BadTensorError as error:
            return str(error)

    assert tensor(loads(large)) == tensor(orjson.loads(large))


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), numbers, st.text()),
        lambda some: st.one_of(st.lists(some), st.dictionaries(st.text(), some)),
    )
)
def test_anything_else_is_what_orjson_makes_of_it(value: Any) -> None:
    for text in (value, {"inputs": value}, {"inputs": [{"datatype": "FP32", "data": value}]}):
        large = (json.dumps(text) + PAD).encode()
        assert plain(loads(large)) == plain(orjson.loads(large))


def plain(value: Any) -> Any:
    """Arrays as lists, numbers as floats: an array holds nothing else."""
    if isinstance(value, np.ndarray):
        return [float(number) for number in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return float(value) if type(value) is int else value


def test_the_rest_of_a_large_request_is_plain() -> None:
    more = {"id": "a", "parameters": {"timeout": 5, "x": [1]}}
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    request = loads(document([1.5], **more, outputs=outputs))
    del request["inputs"]
    assert request == {**more, "outputs": outputs}
    assert isinstance(data_of(loads(document([1.5], outputs=outputs))), np.ndarray)


@pytest.mark.parametrize("data", [[1, [2, 3], []], [[1, 2], [3, 4]], [[1, 2], [3]]])
def test_nested_lists_stay_nested(data: list[Any]) -> None:
    """A buffer would flatten them, and three numbers in a crooked list would pass for three."""
    assert data_of(loads(document(data))) == data


def test_a_member_without_a_name_is_kept() -> None:
    text = b'{"inputs": [{"": null}], "": 1}'
    assert loads(text + PAD.encode()) == orjson.loads(text)


@pytest.mark.parametrize(
    "text", ['{"inputs": [], "a\\u0000b": 1}', '{"inputs": [], "id": "a", "id\\u0000": 5}']
)
def test_a_name_with_a_nul_in_it_is_itself(text: str) -> None:
    """Found: simdjson looked it up by what stands before the NUL: KeyError, or another's value."""
    assert loads((text + PAD).encode()) == orjson.loads(text)


def test_a_name_given_twice_is_refused() -> None:
    text = b'{"id": "a", "id": "b", "inputs": [{"datatype": "FP32", "data": [1], "data": [2]}]}'
    with pytest.raises(BadRequest, match="'id' stands twice"):
        loads(text + PAD.encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": [NaN]}',
        "{" * 3000,
        "[" * 3000,
        '{"a": 1} x',
        '{"inputs": [1e',
        "\0",
        '"\\ud800"',
    ],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="body is no JSON"):
        loads((text + PAD).encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadRequest, match="body is no JSON"):
        loads(b'{"a": "\xff"}' + PAD.encode())
