"""kit.oip.csv_rows: no row is lost, no cell is guessed, and what is wrong is named."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.oip import csv_rows
from kit.oip.csv_rows import read_csv
from kit.oip.errors import BadTensorError


@dataclass(frozen=True)
class Spec:
    name: str
    datatype: str
    shape: list[int]


def read(
    text: str | bytes, *specs: Spec, content_type: str = "text/csv", columns: tuple[str, ...] = ()
) -> list[object]:
    body = text.encode() if isinstance(text, str) else text
    inputs = {spec.name: spec for spec in specs}
    found = read_csv(body, content_type, inputs, model="m", columns=columns)
    return [values.tolist() for _, values in found]


PAIR = Spec("x", "FP32", [-1, 2])
TEXTS = Spec("t", "BYTES", [-1, 1])


@pytest.mark.parametrize(
    "text",
    ['"1";"2"\n"3";"4"\n', '\ufeff"1";"2"\r\n3;"4"\r\n', '1;2\n"3";"4"',
     "1,2\n3,4\n", "1,2\r\n3,4\r\n", "\ufeff1,2\n3,4", '"1","2"\n3,4', "1;2\n3;4\n",
     " 1 , 2\n3,4.0\n\n\n", "+1,2e0\n3.,4"],
)  # fmt: skip
def test_the_same_rows_however_they_are_written(text: str) -> None:
    assert read(text, PAIR) == [[[1.0, 2.0], [3.0, 4.0]]]


@pytest.mark.parametrize("text", [",2\n3,4", "NA,2\n3,4", "1,\n3,4", "nan,2\n3,4", "inf,2\n3,4"])
def test_a_first_row_with_a_gap_is_data_and_refused_never_dropped(text: str) -> None:
    """Found: it was taken for a header and dropped, and every result moved up by one row."""
    with pytest.raises(BadTensorError, match=r"CSV line 1, cell [12] is .*no FP32"):
        read(text, PAIR)


@pytest.mark.parametrize(
    ("text", "datatype", "said"),
    [
        ("1,2\n3,nan\n", "FP32", "CSV line 2, cell 2 is 'nan': no FP32"),
        ("1,2\n3,-inf\n", "FP64", "CSV line 2, cell 2 is '-inf': no FP64"),
        ("1,2\n1e39,4\n", "FP32", "CSV line 2, cell 1 is '1e39': out of range for FP32"),
        ("1,70000\n", "FP16", "CSV line 1, cell 2 is '70000': out of range for FP16"),
        ("1,2\n3,1e999\n", "FP64", "CSV line 2, cell 2 is '1e999': out of range for FP64"),
        ("1,300\n", "UINT8", "CSV line 1, cell 2 is '300': out of range for UINT8"),
        ("1,-1\n", "UINT64", "CSV line 1, cell 2 is '-1': out of range for UINT64"),
        ("1,2\n1.0,2\n", "INT64", "CSV line 2, cell 1 is '1.0': no INT64"),
        ("1,2\n1_0,2\n", "INT64", "CSV line 2, cell 1 is '1_0': no INT64"),
        ("1,2\n\u0661,2\n", "FP32", "CSV line 2, cell 1 is '\u0661': no FP32"),
        ("1,2\n3, \n", "FP32", "CSV line 2, cell 2 is empty: no FP32"),
        ("true,maybe\n", "BOOL", "CSV line 1, cell 2 is 'maybe': no BOOL"),
        ("1,2\n3\n", "FP32", "CSV line 2 has 1 values, the model takes 2"),
        ("1,2\n\n3,4\n", "FP32", "CSV line 2 has 0 values"),
        ("1,5;2,5\n", "FP32", "CSV line 1, cell 1 is '1,5': no FP32"),
        ('1,"2\n', "FP32", "CSV line 1"),
        ("\n\n", "FP32", "no lines"),
    ],
)
def test_what_is_wrong_is_named_by_its_line_and_cell(text: str, datatype: str, said: str) -> None:
    with pytest.raises(BadTensorError) as refused:
        read(text, Spec("x", datatype, [-1, 2]))
    assert said in str(refused.value)


def test_whole_numbers_arrive_as_sent() -> None:
    text = "9007199254740993,-9223372036854775808\n9223372036854775807,1\n"
    assert read(text, Spec("x", "INT64", [-1, 2])) == [
        [[9007199254740993, -(2**63)], [2**63 - 1, 1]]
    ]
    assert read("18446744073709551615", Spec("x", "UINT64", [-1])) == [[2**64 - 1]]


def test_a_header_is_what_the_content_type_or_the_model_says() -> None:
    assert read("a,b\n1,2", PAIR, content_type="text/csv; header=present") == [[[1.0, 2.0]]]
    assert read("a,b\n1,2", PAIR, columns=("a", "b")) == [[[1.0, 2.0]]]
    assert read("b,a\n1,2", PAIR, columns=("a", "b")) == [[[2.0, 1.0]]]
    assert read("x\n5", Spec("x", "FP32", [-1])) == [[5.0]]
    with pytest.raises(BadTensorError, match=r"line 1, cell 1 is 'a'.*header=present"):
        read("a,b\n1,2", PAIR)
    with pytest.raises(BadTensorError, match="line 1, cell 1"):
        read("a,b\n1,2", PAIR, content_type="text/csv; header=absent", columns=("a", "b"))
    with pytest.raises(BadTensorError, match="header=perhaps"):
        read("1,2", PAIR, content_type="text/csv; header=perhaps")
    with pytest.raises(BadTensorError, match="no rows"):
        read("a,b\n", PAIR, content_type="text/csv; header=present")


FOUR = Spec("x", "FP32", [-1, 4])
ABCD = ("a", "b", "c", "d")


@pytest.mark.parametrize("header", ["D,C,B,A", "d,c,b,X", "a,a,b,c", "1,2,3,4", ",,,", "a,b,c,d "])
def test_a_header_of_other_names_than_the_models_is_refused_with_both(header: str) -> None:
    """Found: the cells were taken by their position, and answered with status 200."""
    present = "text/csv; header=present"
    if header.strip() == "a,b,c,d":
        assert read(f"{header}\n1,2,3,4", FOUR, content_type=present, columns=ABCD) == [
            [[1.0, 2.0, 3.0, 4.0]]
        ]
        return
    with pytest.raises(BadTensorError) as refused:
        read(f"{header}\n1,2,3,4", FOUR, content_type=present, columns=ABCD)
    assert str(header.split(",")) in str(refused.value)
    assert "['a', 'b', 'c', 'd']" in str(refused.value)
    # nobody knows the names of this model's columns: the cells stand where they stand
    assert read(f"{header}\n1,2,3,4", FOUR, content_type=present) == [[[1.0, 2.0, 3.0, 4.0]]]


def test_a_header_tells_columns_of_one_name_apart_by_nothing() -> None:
    twice = ("a", "a", "b", "c")
    present = "text/csv; header=present"
    assert read("a,a,b,c\n1,2,3,4", FOUR, content_type=present, columns=twice) == [
        [[1.0, 2.0, 3.0, 4.0]]
    ]
    with pytest.raises(BadTensorError, match="the header names"):
        read("b,a,c,a\n1,2,3,4", FOUR, content_type=present, columns=twice)


def test_a_header_of_thousands_of_names_is_shown_cut_short() -> None:
    wide = Spec("x", "FP32", [-1, 5000])
    header = ",".join(["n" * 1000] * 5000)
    row = ",".join("1" * 5000)
    columns = tuple(f"c{n}" for n in range(5000))
    with pytest.raises(BadTensorError, match="and 4980 more") as refused:
        read(f"{header}\n{row}", wide, content_type="text/csv; header=present", columns=columns)
    assert len(str(refused.value)) < 3000


def test_a_text_that_is_no_name_is_a_row() -> None:
    assert read("good\nbad\n", TEXTS) == [[["good"], ["bad"]]]
    assert read("t\nbad\n", TEXTS) == [[["bad"]]]
    assert read('"a;b, ""c"""\n', TEXTS) == [[['a;b, "c"']]]
    assert read("t,t\n", Spec("t", "BYTES", [-1, 2])) == [[["t", "t"]]]
    assert read("a;b\n", TEXTS) == [[["a;b"]]]


def test_several_inputs_are_columns_by_name() -> None:
    age, city = Spec("age", "INT64", [-1, 1]), Spec("city", "BYTES", [-1])
    assert read("city,age\nSeoul,5\n,7\n", age, city) == [["Seoul", ""], [[5], [7]]]
    with pytest.raises(BadTensorError, match=r"header names \['age', 'town'\].*\['age', 'city'\]"):
        read("age,town\n1,2\n", age, city, content_type="text/csv; header=present")
    for text in ("1,2\n", "age,age\n1,2\n", "age,town\n1,2\n"):
        with pytest.raises(BadTensorError, match=r"\['age', 'city'\]"):
            read(text, age, city)


def test_shapes() -> None:
    assert read("3", Spec("x", "FP32", [])) == [3.0]
    assert read("1,2,3,4", Spec("x", "FP32", [-1, 2, 2])) == [[[[1.0, 2.0], [3.0, 4.0]]]]
    assert read("1,2,3", Spec("x", "FP32", [-1, -1])) == [[[1.0, 2.0, 3.0]]]
    for text, spec in (
        ("1\n2", Spec("x", "FP32", [])),
        ("1\n2", Spec("x", "FP32", [3])),
        ("1,2", Spec("x", "FP32", [-1, -1, 2])),
    ):
        with pytest.raises(BadTensorError, match="'x'"):
            read(text, spec)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"\xff\xfe1\x00", "text/csv"), (b"1,2", "text/csv; charset=euc-kr")],
)
def test_what_is_not_utf8_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(BadTensorError, match="UTF-8"):
        read(body, PAIR, content_type=content_type)


def test_texts_in_quotes_may_be_separated_by_semicolons_whatever_the_width() -> None:
    """Found: 400 `',' expected after '"'`."""
    any_width = Spec("t", "BYTES", [-1, -1])
    assert read('"a";"b"\n"c";"d"\n', any_width) == [[["a", "b"], ["c", "d"]]]
    assert read('a;b\n"c";"d"\n', any_width) == [[["a", "b"], ["c", "d"]]]
    assert read('"a\n1";"b,""2"""\n', any_width) == [[["a\n1", 'b,"2"']]]
    with pytest.raises(BadTensorError, match="CSV line 1"):
        read('"a"x;"b"\n', any_width)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=8)
any_cells = st.text(
    st.one_of(
        st.sampled_from('",;\r\n \ufeff'),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=6,
)


@given(
    st.lists(st.tuples(any_cells, any_cells, any_cells), min_size=1),
    st.sampled_from(",;"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
    st.booleans(),
)
def test_any_quoted_texts_survive_with_either_delimiter(
    rows: list[tuple[str, ...]], delimiter: str, end: str, mark: str, fixed: bool
) -> None:
    table = io.StringIO(newline="")
    csv.writer(
        table, lineterminator=end, delimiter=delimiter, quoting=csv.QUOTE_ALL
    ).writerows(rows)  # fmt: skip
    spec = Spec("t", "BYTES", [-1, 3 if fixed else -1])
    found = read(mark + table.getvalue(), spec, content_type="text/csv; header=absent")
    assert found == [[list(row) for row in rows]]


@given(
    st.lists(st.tuples(*[st.integers(-(10**9), 10**9)] * 3), min_size=1),
    st.tuples(st.sampled_from(",;"), st.sampled_from(["\n", "\r\n"]), st.booleans()),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["", "a,b,c", "c,a,b"]),
    st.booleans(),
)
def test_any_numbers_survive_in_every_dialect(
    rows: list[tuple[int, ...]], dialect: tuple[str, str, bool], mark: str, header: str, fixed: bool
) -> None:
    delimiter, end, quoted = dialect
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    names = header.split(",") if header else []
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator=end, delimiter=delimiter, quoting=quoting)
    writer.writerows([names, *rows] if header else rows)
    spec = Spec("x", "INT64", [-1, 3 if fixed else -1])
    found = read(mark + table.getvalue(), spec, columns=("a", "b", "c"))
    order = [names.index(name) for name in "abc"] if header else range(3)
    assert found == [[[row[at] for at in order] for row in rows]]


@given(st.lists(st.tuples(cells, cells), min_size=1), st.sampled_from(["\n", "\r\n"]))
def test_any_texts_survive(rows: list[tuple[str, str]], end: str) -> None:
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    body = table.getvalue()
    found = read(body, Spec("t", "BYTES", [-1, 2]), content_type="text/csv; header=absent")
    assert found == [[list(row) for row in rows]] or body.startswith("\ufeff")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_any_whole_numbers_survive(numbers: list[int]) -> None:
    text = "".join(f"{number}\n" for number in numbers)
    assert read(text, Spec("x", "INT64", [-1])) == [numbers]


@given(st.text(alphabet='0123456789.,;-+eE"\n\r naif'), st.sampled_from(["FP32", "INT64", "BOOL"]))
def test_any_text_is_rows_or_refused(text: str, datatype: str) -> None:
    try:
        (found,) = read(text, Spec("x", datatype, [-1, 2]))
    except BadTensorError:
        return
    assert np.isfinite(found).all()
    assert len(found) == len([line for line in text.splitlines() if line.strip()])


@given(st.text(alphabet=st.sampled_from('a,"\r\n\v\u2028가'), max_size=12))
def test_lines_end_where_the_standard_librarys_do(text: str) -> None:
    whole = io.StringIO(text, newline="")
    assert [*csv_rows._line_by_line(text)] == [*whole]
