"""Requests that are answered from memory, without a task for them."""

from __future__ import annotations

from time import monotonic
from typing import cast

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from kit.http.problem import Problem
from kit.lifecycle.health import Health
from proxy.gateway.identity import Identity
from proxy.gateway.report import Reports
from proxy.http import paths
from proxy.http.request import Request
from proxy.models.http import HttpModel
from proxy.policy import authentication
from proxy.policy.experiments import arm_of
from proxy.predictions import infer_cache
from proxy.server import protocol
from proxy.services import Services


class CachedAnswers:
    """Answers requests that were answered before; the protocol calls it before it makes a task."""

    def __init__(
        self, services: Services, health: Health, identity: Identity, reports: Reports
    ) -> None:
        self._services = services
        self._health = health
        self._identity = identity
        self._reports = reports

    def __call__(self, cycle: RequestResponseCycle) -> bool:
        """Answer a request that was answered before, from memory and without a task for it.

        False, and nothing counted, where it takes more than that. Whatever is in the way (a
        malformed header, a missing scope, a used-up limit) is left to the longer way to say.
        """
        scope = cast(Scope, cycle.scope)
        if self._health.draining or scope["method"] != "POST":
            return False
        request = Request(scope, cast(Receive, cycle.receive), cast(Send, cycle.send), monotonic())
        self._identity.strip_stage(request)
        path = paths.model_path(request.raw_path)
        if path is None or path.verb != "infer":
            return False
        services = self._services
        try:
            self._identity.read(request)
            caller = services.auth.known_caller(request.headers)
            if isinstance(caller, bytes) or request.probe:
                return False
            request.caller = caller
            request.admitted = True  # its limit is counted below, before anything is answered
            request.arm = arm_of(services.settings, request)
            authentication.allow(request, "predict", path.model)
            backend = services.models.choose(path.model, scope["query_string"], request.headers)
            if not isinstance(backend, HttpModel) or backend.cache is None:
                return False
            body = bytes(cycle.body)
            sent = infer_cache.recall_sent(request, services.cache, backend, path.rest, body)
            if (
                sent is None
                or not protocol.may_write(cycle, sent.status)
                or not services.limits.admit_from_lease(request)
            ):
                return False
        except Problem:
            return False
        request.route = "/v2/models/{model}/infer"
        request.model, request.variant, request.cache = backend.name, sent.variant, "hit"
        request.body_bytes = len(body)
        lines = sent.lines + self._reports.own_lines(request, sent.status)
        protocol.write(cycle, sent.status, lines, sent.body)
        services.cache.count(backend.name, "hit")
        self._reports.write(request)
        return True
