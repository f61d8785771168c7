"""The backend and Slack: one POST each, and what their answers mean."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import stamina

from unzip.announce.outbox import Refusal

_ICONS = {"published": ":white_check_mark:", "refused": ":no_entry:", "failed": ":warning:"}
_LONGEST_WAIT = 3600.0


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """``t=<unix seconds>,v1=<hex>``: HMAC-SHA256 of ``<t>.<body>``, as Stripe's webhooks do."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"t={timestamp},v1={digest.hexdigest()}"


class Backend:
    """POSTs the event as structured CloudEvents JSON; the idempotency key is the event's id."""

    name = "backend"
    idempotent = True

    def __init__(
        self, client: httpx.Client, url: str, *, secret: str = "", attempts: int = 3
    ) -> None:
        self._client = client
        self._url = url
        self._secret = secret
        self._attempts = attempts

    def send(self, event: dict[str, Any]) -> None:
        """Deliver, trying a few times; Refusal when it has to wait."""
        body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()

        def once() -> None:
            headers = {
                "content-type": "application/cloudevents+json",
                "idempotency-key": event["id"],
            }
            if self._secret:
                headers["x-slipway-signature"] = signature(self._secret, int(time.time()), body)
            _post(self._client, self._url, body, headers)

        for attempt in stamina.retry_context(
            on=_worth_retrying, attempts=self._attempts, wait_initial=0.2, wait_max=2
        ):
            with attempt:
                once()


class Slack:
    """Posts one line to an incoming webhook, no more often than Slack likes."""

    name = "slack"
    idempotent = False

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        template: str,
        *,
        spacing_seconds: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._url = url
        self._template = template
        self._spacing = spacing_seconds
        self._sleep = sleep
        self._next = 0.0

    def send(self, event: dict[str, Any]) -> None:
        """Post the line; Refusal when Slack does not take it."""
        wait = self._next - time.monotonic()
        if wait > 0:
            self._sleep(wait)
        self._next = time.monotonic() + self._spacing
        body = json.dumps({"text": render(self._template, event)}, ensure_ascii=False).encode()
        _post(self._client, self._url, body, {"content-type": "application/json"})


def render(template: str, event: dict[str, Any]) -> str:
    """The template with the event's data, Slack's three special characters escaped."""
    data = {
        name: _escape(value) if isinstance(value, str) else value
        for name, value in event["data"].items()
    }
    member = f" (member {data['member']})" if data.get("member") else ""
    reason = f" {data['reason']}: {data['detail']}{member}" if data["reason"] else ""
    return template.format_map(
        {**data, "icon": _ICONS.get(data["outcome"], ""), "detail": reason, "id": event["id"]}
    )


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _worth_retrying(error: Exception) -> bool:
    # A server that names a time is not asked again before it; the outbox waits.
    return isinstance(error, Refusal) and not error.after


def _post(client: httpx.Client, url: str, body: bytes, headers: dict[str, str]) -> None:
    try:
        answer = client.post(url, content=body, headers=headers)
    except httpx.ConnectError as error:
        raise Refusal(f"cannot be reached: {error}") from error
    except httpx.HTTPError as error:
        raise Refusal(f"no answer: {type(error).__name__} {error}", unknown=True) from error
    if not answer.is_success:
        raise Refusal(
            f"answered {answer.status_code}: {answer.text[:200]}",
            after=retry_after(answer.headers.get("retry-after", "")),
            # A gateway's 5xx says nothing about what happened behind it.
            unknown=answer.status_code in (502, 504),
        )


def retry_after(header: str) -> float:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 if unreadable."""
    if header.isdigit():
        return min(float(header), _LONGEST_WAIT)
    try:
        seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, seconds), _LONGEST_WAIT)
