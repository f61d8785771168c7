"""tests.conformance: one corpus's table is written and the others' stay."""

from __future__ import annotations

from tests.conformance import replace_section


def test_a_section_is_added_and_replaced_and_its_neighbours_stay() -> None:
    page = replace_section("# Title\n\nWords.\n", "ONNX", "one")
    page = replace_section(page, "Archives", "two")
    assert page == "# Title\n\nWords.\n\n## ONNX\n\none\n\n## Archives\n\ntwo\n"
    page = replace_section(page, "ONNX", r"three \1")
    assert page == "# Title\n\nWords.\n\n## ONNX\n\nthree \\1\n\n## Archives\n\ntwo\n"
    assert replace_section(page, "Archives", "two") == page
