"""Errors are problem documents that name what the docs explain."""

from __future__ import annotations

import json

from kit.http.problem import Problem


def test_a_problem_has_the_members_of_the_rfc_and_its_own() -> None:
    problem = Problem(404, "unknown-model", "there is no model 'x'", known=["digits"])
    assert json.loads(problem.body(request_id="r-1")) == {
        "type": "urn:slipway:problem:unknown-model",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no model 'x'",
        "known": ["digits"],
        "request_id": "r-1",
    }
    assert str(problem) == "there is no model 'x'"


def test_what_a_caller_sent_is_quoted_in_part() -> None:
    problem = Problem(400, "bad-input", f"input {'x' * 7_000_000!r} is unknown: send 'y'")
    assert len(problem.body()) < 3000
    assert problem.detail.startswith("input 'xxx")
    assert problem.detail.endswith("is unknown: send 'y'")
