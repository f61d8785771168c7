"""The models behind the proxy: which backend serves a request, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qsl

from kit.http.problem import Problem
from proxy.config.backends import Rule
from proxy.models.backend import ModelBackend
from proxy.models.discovery import Discovery, Server
from proxy.models.http import HttpModel


class Models:
    """Every model by name, and the rules that choose among backends.

    Beside those that the settings name there are those of the ``servers`` that are asked for
    theirs; ``made`` makes the backend of one.
    """

    def __init__(
        self,
        backends: Mapping[str, ModelBackend],
        rules: list[Rule],
        servers: Mapping[str, Server] | None = None,
        made: Callable[[str, Server], ModelBackend] | None = None,
    ) -> None:
        self.backends = dict(backends)
        self._listed = frozenset(backends)
        self._made = made
        self.discovery = Discovery(servers or {}, self._adopt)
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            self._rules.setdefault(rule.model, []).append(rule)

    def _adopt(self) -> None:
        """Make backends of the models that servers have, and drop those of models that went."""
        found = self.discovery.by_model(self._listed)
        for name in self.backends.keys() - self._listed - found.keys():
            del self.backends[name]
        for name, server in found.items():
            there = self.backends.get(name)
            same = isinstance(there, HttpModel) and there.destination is server.destination
            if not same and self._made is not None:
                self.backends[name] = self._made(name, server)

    async def find(self, model: str) -> ModelBackend:
        """The backend of that name, the servers asked for it where it is unknown.

        Problem 404 where there is none, 503 where a server that may have it did not answer yet.
        """
        if model not in self.backends:
            await self.discovery.refresh()
        return self.named(model)

    async def find_for(
        self, model: str, query: bytes, request_headers: Sequence[tuple[bytes, bytes]]
    ) -> ModelBackend:
        """As `choose`, the servers asked for a name that is unknown."""
        return await self.find(self._chosen(model, query, request_headers))

    def named(self, model: str) -> ModelBackend:
        """The backend of that name; Problem 404 where there is none, 503 where it may come."""
        backend = self.backends.get(model)
        if backend is None:
            if unknown := self.discovery.unknown():
                raise Problem(
                    503,
                    "model-unavailable",
                    f"whether there is a model {model!r} is not known yet: {'; '.join(unknown)}",
                    headers={"retry-after": "2"},
                )
            known = ", ".join(sorted(self.backends)) or "none"
            raise Problem(404, "unknown-model", f"there is no model {model!r}; there are: {known}")
        return backend

    def choose(
        self, model: str, query: bytes, request_headers: Sequence[tuple[bytes, bytes]]
    ) -> ModelBackend:
        """The backend for a request: the first rule that fits, else the model's own."""
        return self.named(self._chosen(model, query, request_headers))

    def _chosen(
        self, model: str, query: bytes, request_headers: Sequence[tuple[bytes, bytes]]
    ) -> str:
        rules = self._rules.get(model)
        if rules:
            for rule in rules:
                if fits(rule, query, request_headers):
                    return rule.backend
        return model


def fits(rule: Rule, query: bytes, request_headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a request meets every condition of a rule."""
    if rule.query:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        given = dict(reversed(pairs))  # the first of a name counts, as it does for Envoy
        for name, wanted in rule.query.items():
            if name not in given or wanted not in ("*", given[name]):
                return False
    if rule.headers:
        sent: dict[str, str] = {}
        for key, one in request_headers:  # a name that comes twice is one list, as for Envoy
            name, text = key.decode("latin-1"), one.decode("latin-1")
            sent[name] = f"{sent[name]},{text}" if name in sent else text
        for name, wanted in rule.headers.items():
            value = sent.get(name.lower())
            if value is None or wanted not in ("*", value):
                return False
    return True
