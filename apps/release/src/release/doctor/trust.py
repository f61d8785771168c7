"""Trust policies of AWS roles: which of GitHub's tokens may assume a role.

A token has a subject (``sub``) and an audience (``aud``). Operators of a statement's condition
must all hold; of an operator's values one must.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ISSUER = "token.actions.githubusercontent.com"
AUDIENCE = "sts.amazonaws.com"
ACTIONS = ("sts:assumerolewithwebidentity", "sts:*", "*")
_OPERATOR = re.compile(
    r"(?:ForA(?:ny|ll)Value[s]?:)?(StringEquals|StringEqualsIgnoreCase|StringLike)(?:IfExists)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Values:
    """What one operator asks of a claim; ``wildcards`` where ``*`` and ``?`` have a meaning."""

    values: tuple[str, ...]
    wildcards: bool = False
    ignore_case: bool = False

    def take(self, claim: str) -> bool:
        """Whether a claim meets one of the values."""
        return any(self._takes(claim, one) for one in self.values)

    def _takes(self, claim: str, value: str) -> bool:
        if not self.wildcards:
            return claim.lower() == value.lower() if self.ignore_case else claim == value
        pattern = re.escape(value).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(pattern, claim, re.DOTALL) is not None


@dataclass(frozen=True)
class Statement:
    """A statement that lets GitHub's tokens in: ``providers`` are ARNs, or ``*``."""

    providers: tuple[str, ...]
    subjects: tuple[Values, ...]
    audiences: tuple[Values, ...]

    def trusts(self, subject: str) -> bool:
        """Whether a token of this subject and of AWS's audience may assume the role."""
        return all(one.take(subject) for one in self.subjects) and all(
            one.take(AUDIENCE) for one in self.audiences
        )

    def beyond(self, needed: Sequence[str]) -> list[str]:
        """Subjects, or patterns of them, that it trusts and no workflow of ours has."""
        exact = [one for one in self.subjects if not one.wildcards]
        narrowest = exact or list(self.subjects)
        if not narrowest:
            return ["*"]
        return [value for value in narrowest[0].values if value not in needed]


def statements(policy: Mapping[str, Any]) -> list[Statement]:
    """The statements of a trust policy that are about GitHub's tokens."""
    found = policy.get("Statement", [])
    return [
        Statement(
            providers,
            tuple(_conditions(one, "sub")),
            tuple(_conditions(one, "aud")),
        )
        for one in ([found] if isinstance(found, dict) else found)
        if one.get("Effect") == "Allow" and (providers := _providers(one)) and _assumes(one)
    ]


def opens_to_all(policy: Mapping[str, Any]) -> bool:
    """Whether somebody of any AWS account may assume the role, without a condition."""
    found = policy.get("Statement", [])
    return any(
        one.get("Effect") == "Allow" and not one.get("Condition") and "*" in _of(one, "AWS")
        for one in ([found] if isinstance(found, dict) else found)
    )


def _of(statement: Mapping[str, Any], kind: str) -> list[str]:
    principal = statement.get("Principal", {})
    return _list("*" if principal == "*" else principal.get(kind, []))


def _providers(statement: Mapping[str, Any]) -> tuple[str, ...]:
    named = _of(statement, "Federated")
    return tuple(one for one in named if one.endswith(f"oidc-provider/{ISSUER}"))


def _assumes(statement: Mapping[str, Any]) -> bool:
    return any(one.lower() in ACTIONS for one in _list(statement.get("Action", [])))


def _conditions(statement: Mapping[str, Any], claim: str) -> Iterator[Values]:
    for operator, asked in (statement.get("Condition") or {}).items():
        for key, value in asked.items():
            if key.lower() != f"{ISSUER}:{claim}":
                continue
            name = _OPERATOR.fullmatch(operator)
            if name is None:  # "not equal", or what is not known here: it may let in anything
                yield Values(("*",), wildcards=True)
                continue
            kind = name[1].lower()
            yield Values(
                tuple(_list(value)),
                wildcards=kind == "stringlike",
                ignore_case=kind == "stringequalsignorecase",
            )


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value]
