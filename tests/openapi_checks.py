"""Holds a service to its OpenAPI document with every check that schemathesis has.

What a schema cannot say is a list of exceptions, each with its reason, in the service's own test.
An exception names one check, the answers it allows, and by their text why they are right; any
other answer to the same operation still fails.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.parameters import ParameterLocation

from tests.conformance import PAGE

load_all_checks()
EVERY_CHECK = tuple(CHECKS.get_all())


@dataclass(frozen=True, slots=True)
class Allowed:
    """An answer that fails a check and is right: ``reason`` says why a schema cannot say so.

    ``operations``, ``answer`` and ``media_type`` are regular expressions, searched in the
    operation's label ("POST /v1/predict/{model}"), the answer's body and the request's type.
    """

    check: str
    operations: str
    statuses: tuple[int, ...]
    answer: str
    reason: str
    media_type: str = ""

    def fits(self, check: str, case: Any, response: Any) -> bool:
        """Whether it is this failure that is allowed."""
        return (
            check == self.check
            and response.status_code in self.statuses
            and re.search(self.operations, case.operation.label) is not None
            and re.search(self.answer, response.text) is not None
            and re.search(self.media_type, case.media_type or "") is not None
        )


class Contract:
    """A running service's document, its exceptions, and which of them were needed."""

    def __init__(self, allowed: Sequence[Allowed]) -> None:
        self.allowed = allowed
        self.needed: Counter[Allowed] = Counter()
        self.answers: Counter[int] = Counter()

    def ask(self, case: Any, base_url: str, headers: dict[str, str] | None = None) -> None:
        """Send a case with these ``headers`` too; Failure where a check fails that may not."""
        response = case.call(base_url=base_url, timeout=30, headers=headers)
        self.hold(case, response, headers=headers)

    def hold(self, case: Any, response: Any, **given: Any) -> None:
        """Hold an answer to every check. ``given`` goes to ``Case.validate_response``."""
        self.answers[response.status_code] += 1
        for check in EVERY_CHECK:
            try:
                case.validate_response(response, checks=[check], **given)
            except (Failure, FailureGroup):
                found = [each for each in self.allowed if each.fits(check.__name__, case, response)]
                if not found:
                    raise
                self.needed.update(found)

    def not_needed(self) -> list[Allowed]:
        """The exceptions that no answer of this run needed."""
        return [each for each in self.allowed if not self.needed[each]]


def examples(count: int) -> settings:
    """Hypothesis's settings: the edges of the schema and ``count`` drawn cases, always the same."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def aim(case: Any, name: str, *parameters: str) -> None:
    """Let three of four cases with a good path name something that is there.

    Else hardly one would get past the path.
    """
    if case.meta is not None and case.meta.is_negative_at(ParameterLocation.PATH):
        return
    given = repr(
        (case.path_parameters, case.query, sorted((case.headers or {}).items()), case.body)
    )
    for parameter in parameters:
        if parameter in (case.path_parameters or {}) and zlib.crc32(given.encode()) % 4:
            case.path_parameters[parameter] = name


def row_of(service: str, allowed: Allowed) -> str:
    """An exception as a line of the table in docs/conformance.md."""
    statuses = ", ".join(map(str, allowed.statuses))
    return f"| {service} | `{allowed.check}` | {statuses} | {allowed.reason} |"


def not_documented(service: str, allowed: Sequence[Allowed]) -> list[str]:
    """The exceptions that docs/conformance.md does not list as they are."""
    page = PAGE.read_text()
    return [row for each in allowed if (row := row_of(service, each)) not in page]
