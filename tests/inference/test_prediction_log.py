"""inference.prediction_log: every prediction once, in the right place, never in the way."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.prediction_log import Event, HttpSink, Prediction, PredictionLog
from inference.repository import fetch
from kit.http.probe_header import mark
from tests.inference import small_models
from tests.inference.conftest import Serve, tensor, until
from tests.s3 import S3Server, serve_s3

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ROW = tensor("x", "FP32", [1, 2], [1, 2])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3"), buckets=["log"]) as running:
        yield running


def events_in(server: S3Server, prefix: str) -> list[tuple[str, Event]]:
    root = server.folder / "log" / prefix
    return [
        (str(path.relative_to(root).parent), json.loads(line))
        for path in sorted(root.rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


async def test_predictions_and_failures_reach_s3_partitioned(
    s3: S3Server, serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    small_models.put(repository, "affine", "3", small_models.affine())
    settings = {"prediction_log": "s3://log/all", "prediction_log_inputs": "full"}
    async with serve(**settings) as running:
        post = running.client.post
        path = "/v2/models/affine/infer"
        good = {"x-request-id": "good", "traceparent": TRACE}
        assert (await post(path, json={"inputs": [ROW]}, headers=good)).status_code == 200
        bad = {"x-request-id": "bad"}
        assert (await post(path, json={"inputs": []}, headers=bad)).status_code == 400
        for header in ({"x-slipway-shadow": "true"}, {"host": "inference-shadow"}):
            answer = await post(path, json={"inputs": [ROW]}, headers=header)
            assert answer.status_code == 200
    today = datetime.now(UTC).date().isoformat()
    events = events_in(s3, "all")
    by_id = {event["data"]["request_id"]: (place, event) for place, event in events}
    place, event = by_id["good"]
    assert place == f"mirrored=false/date={today}/model=affine"
    assert event["specversion"] == "1.0"
    assert event["type"] == "slipway.prediction.served.v1"
    assert event["source"] == "/slipway/inference/inference"
    assert event["subject"] == "affine/3"
    assert event["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert not event["traceparent"].startswith(TRACE)  # the span is ours
    data = event["data"]
    assert data["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert (data["model"], data["version"], data["variant"]) == ("affine", "3", "inference")
    assert (data["pod"], data["status"], data["rows"]) == ("pod-1", 200, 1)
    assert data["inputs"] == [ROW]
    assert data["outputs"][0]["data"] == [3.0, 5.0]
    assert data["total_ms"] >= data["compute_ms"] > 0
    _, failed = by_id["bad"]
    assert failed["type"] == "slipway.prediction.failed.v1"
    assert (failed["data"]["status"], failed["data"]["reason"]) == (400, "bad_request")
    assert "inputs" not in failed["data"]
    mirrored = [event for place, event in events if place.startswith("mirrored=true/")]
    assert [event["type"] for event in mirrored] == ["slipway.prediction.mirrored.v1"] * 2
    assert len(events) == 4


@pytest.mark.parametrize("protocol", ["rest", "v1", "sagemaker"])
async def test_a_failure_has_the_inputs_it_failed_on_or_none(
    serve: Serve, repository: Path, capfd: pytest.CaptureFixture[str], protocol: str
) -> None:
    """Found: a failure never had inputs, and a digest all the same: that of nothing."""
    small_models.put(repository, "picky", "1", small_models.picky())
    path = {
        "rest": "/v2/models/picky/infer",
        "v1": "/v1/models/picky:predict",
        "sagemaker": "/invocations",
    }[protocol]

    def body(row: int) -> dict[str, Any]:
        if protocol == "rest":
            return {"inputs": [tensor("i", "INT64", [1], [row])]}
        return {"instances": [row]}

    asked = {"good": body(3), "refused": body(99), "again": body(99), "unread": {"nothing": 5}}
    async with serve(prediction_log="stdout") as running:
        for identity, document in asked.items():
            headers = {"x-request-id": identity}
            await running.client.post(path, json=document, headers=headers)
    lines = [line for line in capfd.readouterr().out.splitlines() if '"specversion"' in line]
    data = {event["request_id"]: event for event in (json.loads(line)["data"] for line in lines)}
    assert [data[identity]["status"] for identity in asked] == [200, 400, 400, 400]
    assert data["refused"]["inputs_sha256"] == data["again"]["inputs_sha256"]
    assert data["refused"]["inputs_sha256"] != data["good"]["inputs_sha256"]
    assert data["refused"]["rows"] == 1
    assert "inputs_sha256" not in data["unread"]


class Keeps:
    """A sink that keeps what it is given; can be held, can fail."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False

    def write(self, events: Sequence[Event]) -> None:
        assert self.gate.wait(90)
        if self.fail:
            raise OSError("disk full")
        self.events += events


def prediction(identity: str, **more: Any) -> Prediction:
    return Prediction(
        identity, "rest", "m", "1", 200, finished=1_700_000_000.0, total=0.01, **more
    )  # fmt: skip


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    sink = Keeps()
    sink.gate.clear()
    log = PredictionLog(sink, source={}, max_events=3, batch_events=1, flush_seconds=0.01)
    for number in range(20):
        log.record(prediction(f"r{number}"))
    sink.gate.set()
    log.close()
    assert log.counts["dropped"] + log.counts["written"] == 20
    assert log.counts["written"] == len(sink.events)
    assert log.counts["dropped"] >= 15


def test_large_tensors_count_by_their_bytes() -> None:
    sink = Keeps()
    sink.gate.clear()
    log = PredictionLog(sink, source={}, max_bytes=10_000, batch_events=1)
    big = {"x": np.zeros(1000, np.float32)}
    for number in range(5):
        log.record(prediction(f"r{number}", inputs=big))
    assert log.counts["dropped"] == 3
    sink.gate.set()
    log.close()
    log = PredictionLog(Keeps(), source={}, max_bytes=10_000, inputs="none")
    for number in range(50):
        log.record(prediction(f"r{number}", inputs=big))
    log.close()
    assert log.counts == {"written": 50}


@pytest.mark.parametrize("element", ["x" * 4000, b"x" * 4000])
def test_text_and_bytes_count_by_their_length(element: str | bytes) -> None:
    """Found: each counted as the eight bytes of the pointer to it."""
    sink = Keeps()
    sink.gate.clear()
    log = PredictionLog(sink, source={}, max_bytes=10_000, batch_events=1)
    for number in range(5):
        log.record(prediction(f"r{number}", inputs={"x": np.array([element], dtype=object)}))
    assert log.counts["dropped"] == 3
    sink.gate.set()
    log.close()
    assert log._bytes == 0


def test_a_sink_that_fails_is_counted_and_tried_with_the_next() -> None:
    sink = Keeps()
    sink.fail = True
    log = PredictionLog(sink, source={}, batch_events=1)
    log.record(prediction("a"))
    while not log.counts["failed"]:
        pass
    sink.fail = False
    log.record(prediction("b"))
    log.close()
    assert log.counts == {"failed": 1, "written": 1}
    assert [event["data"]["request_id"] for event in sink.events] == ["b"]


def test_a_share_is_sampled_by_id_alone() -> None:
    sinks = Keeps(), Keeps()
    for sink in sinks:
        log = PredictionLog(sink, source={}, sample=0.25)
        for number in range(2000):
            log.record(prediction(f"request-{number}"))
        log.close()
    first, second = ([event["id"] for event in sink.events] for sink in sinks)
    assert first == second
    assert 400 < len(first) < 600


def test_inputs_are_digested_by_content_not_by_layout() -> None:
    sink = Keeps()
    log = PredictionLog(sink, source={}, inputs="digest")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for inputs in (values, np.asfortranarray(values), values + 1, values.reshape(3, 2)):
        log.record(prediction("r", inputs={"x": inputs}))
    log.close()
    digests = [event["data"]["inputs_sha256"] for event in sink.events]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_log_that_is_off_costs_nothing_and_closes() -> None:
    log = PredictionLog(None, source={})
    assert not log.enabled
    log.close()


def test_batches_go_over_http_and_are_tried_again() -> None:
    received: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.headers["content-type"], json.loads(body)))
            self.send_response(503 if len(received) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sink = HttpSink(f"http://127.0.0.1:{server.server_port}/events")
        log = PredictionLog(sink, source={"pod": "p"})
        log.record(prediction("a"))
        log.record(prediction("b"))
        log.close()
        sink.close()
        server.shutdown()
        thread.join()
    assert log.counts == {"written": 2}
    assert [media.split(";")[0] for media, _ in received] == [
        "application/cloudevents-batch+json"
    ] * 2
    assert [event["id"] for event in received[-1][1]] == ["a/p", "b/p"]


async def test_stdout_gets_lines(
    serve: Serve, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small_models.put(repository, "affine", "1", small_models.affine())
    async with serve(prediction_log="stdout", prediction_log_flush_seconds=0.01) as running:
        await asyncio.gather(*(running.infer("affine", ROW) for _ in range(5)))
        written = running.state.engine.outcomes.prediction_log.counts
        await until(lambda: written["written"] == 5)
        metrics = (await running.client.get("/metrics")).text
        assert 'inference_prediction_log_events_total{outcome="written"} 5.0' in metrics
    lines = [line for line in capfd.readouterr().out.splitlines() if '"specversion"' in line]
    assert len(lines) == 5
    assert all(json.loads(line)["data"]["status"] == 200 for line in lines)


def test_the_log_is_named_wrong() -> None:
    from pydantic import ValidationError

    from inference.settings import InferenceSettings

    with pytest.raises(ValidationError, match="prediction_log"):
        InferenceSettings(prediction_log="file:///x")


def test_s3_names_never_repeat(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    from inference.prediction_log import S3Sink

    sink = S3Sink("s3://log/twice", "pod")
    log = PredictionLog(sink, source={}, batch_events=1)
    for number in range(3):
        log.record(prediction(f"r{number}"))
    log.close()
    assert log.counts == {"written": 3}
    assert len(list(fetch.open_store("s3://log/twice").list().collect())) == 3


async def test_the_verifier_s_requests_are_in_no_log_and_no_metric(
    s3: S3Server, serve: Serve, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    small_models.put(repository, "affine", "3", small_models.affine())
    settings = {"prediction_log": "s3://log/probes", "SLIPWAY_PROBE_KEY": "key"}
    believed = {"x-slipway-probe": mark("key", time.time()), "x-request-id": "verifier"}
    pretended = {"x-slipway-probe": mark("guess", time.time()), "x-request-id": "anybody"}
    async with serve(**settings) as running:
        for path, body in (
            ("/v2/models/affine/infer", {"inputs": [ROW]}),
            ("/v2/models/affine/infer", {"inputs": []}),
            ("/v1/models/affine:predict", {"instances": [[1, 2]]}),
            ("/v2/models/nobody/infer", {"inputs": [ROW]}),
        ):
            for headers in (believed, pretended):
                await running.client.post(path, json=body, headers=headers)
        text = (await running.client.get("/metrics")).text
    logged = [event["data"]["request_id"] for _, event in events_in(s3, "probes")]
    assert logged == ["anybody"] * 4
    counted = {
        name: sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"{name}_total{{")
        )
        for name in ("inference_requests", "inference_refused", "inference_probes")
    }
    assert counted["inference_probes"] == 4
    assert counted["inference_requests"] + counted["inference_refused"] == 4
