"""What goes over the wire to the backend and Slack, and how their answers are taken."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from tests.unzip.receiver import Receiver, receiving
from tests.waits import SECONDS
from unzip.announce.outbox import Refusal
from unzip.announce.targets import Backend, Slack, render, retry_after

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "abc-1",
    "data": {
        "key": "kim <&>/result.zip",
        "outcome": "refused",
        "reason": "wrong_crc",
        "detail": "a > b",
        "members": 0,
        "bytes": 0,
    },
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=SECONDS) as client:
        yield client


def test_backend_is_signed_and_has_a_key(receiver: Receiver, client: httpx.Client) -> None:
    Backend(client, receiver.url, secret="s3cret").send(EVENT)
    ((headers, body),) = receiver.requests
    assert headers["idempotency-key"] == "abc-1"
    assert headers["content-type"] == "application/cloudevents+json"
    assert json.loads(body) == EVENT
    fields = dict(part.split("=") for part in headers["x-slipway-signature"].split(","))
    expected = hmac.new(b"s3cret", fields["t"].encode() + b"." + body, hashlib.sha256)
    assert fields["v1"] == expected.hexdigest()


def test_backend_is_tried_again_with_the_same_key(receiver: Receiver, client: httpx.Client) -> None:
    receiver.answers = [(500, {}), (503, {})]
    Backend(client, receiver.url).send(EVENT)
    assert [headers["idempotency-key"] for headers, _ in receiver.requests] == ["abc-1"] * 3


def test_backend_that_names_a_time_is_left_alone_until_then(
    receiver: Receiver, client: httpx.Client
) -> None:
    receiver.answers = [(429, {"Retry-After": "120"})]
    with pytest.raises(Refusal) as refusal:
        Backend(client, receiver.url).send(EVENT)
    assert refusal.value.after == 120
    assert len(receiver.requests) == 1


def test_nobody_listens(client: httpx.Client) -> None:
    with receiving() as gone:
        url = gone.url
    with pytest.raises(Refusal, match="cannot be reached") as refusal:
        Backend(client, url, attempts=1).send(EVENT)
    assert not refusal.value.unknown


def test_no_answer_means_unknown(receiver: Receiver) -> None:
    receiver.answers = [(0, {})]
    with httpx.Client(timeout=SECONDS) as client, pytest.raises(Refusal) as refusal:
        Slack(client, receiver.url, "{key}").send(EVENT)
    assert refusal.value.unknown


def test_slack_text_is_escaped_and_spaced(receiver: Receiver, client: httpx.Client) -> None:
    slept: list[float] = []
    slack = Slack(
        client, receiver.url, "{icon} {key}:{detail}", spacing_seconds=30, sleep=slept.append
    )
    slack.send(EVENT)
    slack.send(EVENT)
    assert json.loads(receiver.requests[0][1]) == {
        "text": ":no_entry: kim &lt;&amp;&gt;/result.zip: wrong_crc: a > b".replace("a >", "a &gt;")
    }
    assert len(slept) == 1
    assert 29 < slept[0] <= 30


def test_a_secret_never_stands_in_an_error(client: httpx.Client, receiver: Receiver) -> None:
    receiver.answers = [(403, {})] * 3
    with pytest.raises(Refusal) as refusal:
        Slack(client, receiver.url + "services/T0/B0/SECRET", "{key}").send(EVENT)
    assert "SECRET" not in str(refusal.value)


def test_render() -> None:
    assert render("{outcome} {id}", EVENT) == "refused abc-1"


def test_retry_after_forms() -> None:
    assert retry_after("17") == 17
    assert retry_after("99999999") == 3600
    assert retry_after("soon") == 0
    assert retry_after("") == 0
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < retry_after(moment) <= 60
