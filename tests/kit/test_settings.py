"""The reference names the variables that the settings are really read from."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from kit import settings


class Example(settings.ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    mode: Annotated[Literal["fast", "safe"], Field(description="How | when.")] = "safe"
    bucket: Annotated[str, Field(description="Where to.")]
    limits: Annotated[dict[str, int], Field(default_factory=dict, description="By name.")]


def rows() -> dict[str, dict[str, object]]:
    return {str(row["name"]): row for row in settings.environment_variables(Example)}


def test_prefixed_and_shared_variables_are_named_as_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = rows()
    assert {"EXAMPLE_MODE", "EXAMPLE_BUCKET", "EXAMPLE_PORT", "POD_NAME"} <= found.keys()
    for name, value in (
        ("EXAMPLE_BUCKET", "b"),
        ("EXAMPLE_PORT", "9"),
        ("EXAMPLE_LIMITS", '{"a": 1}'),
        ("POD_NAME", "p-1"),
    ):
        monkeypatch.setenv(name, value)
    read = Example()
    assert (read.bucket, read.port, read.limits, read.pod_name) == ("b", 9, {"a": 1}, "p-1")


def test_the_reference_tells_type_default_and_what_is_required() -> None:
    found = rows()
    assert found["EXAMPLE_BUCKET"]["required"] is True
    assert found["EXAMPLE_MODE"]["default"] == "safe"
    assert found["EXAMPLE_MODE"]["type"] == "one of `fast`, `safe`"
    page = settings.reference(Example, title="example")
    assert "| `EXAMPLE_BUCKET` | string | required | Where to. |" in page
    assert "How \\| when." in page, "a bar would end the cell"
    document = json.loads(settings.reference(Example, title="example", as_json=True))
    assert {row["name"] for row in document["settings"]} == found.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [("EXAMPLE_PORT", "70000"), ("EXAMPLE_MODE", "quick"), ("EXAMPLE_LIMITS", "x")],
)
def test_a_value_that_is_out_of_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("EXAMPLE_BUCKET", "b")
    monkeypatch.setenv(name, value)
    with pytest.raises((ValidationError, ValueError), match=r"port|mode|limits"):
        Example()
