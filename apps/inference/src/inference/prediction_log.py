"""Every prediction as a CloudEvent, written in the background and never in a request's way.

The event loop hands over references; a thread converts them to JSON and writes them in
batches: lines on stdout, objects in S3 (``mirrored=…/date=…/model=…/``), or CloudEvents
batches over HTTP. The buffer is bounded in events and in bytes; what does not fit is dropped
and counted.

Source: CloudEvents 1.0, JSON format and HTTP binding.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, Literal, Protocol

import numpy as np
import orjson
import stamina
from obstore.exceptions import BaseError

from inference.repository.fetch import open_store
from inference.settings import InferenceSettings
from kit.oip.datatypes import of_array
from kit.oip.non_finite import count_of
from kit.oip.tensors import Array, to_binary, to_json
from kit.telemetry import logs
from kit.telemetry.tracing import TraceContext

log = logs.get("inference.predictionlog")

InputStyle = Literal["digest", "full", "none"]
Event = dict[str, Any]


@dataclass(slots=True)
class Prediction:
    """What the event loop knows when a request is over; times in seconds.

    ``inputs`` is None where the request was not parsed, or they are not to be logged.
    """

    request_id: str
    protocol: str
    model: str
    version: str
    status: int
    finished: float
    total: float
    trace: TraceContext | None = None
    mirrored: bool = False
    rows: int = 0
    inputs: Mapping[str, Array] | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)
    queue: float = 0.0
    compute: float = 0.0
    reason: str = ""
    error: str = ""
    size: int = 0
    """Bytes of its tensors, about; set when it is recorded."""


class Sink(Protocol):
    """Where events go. ``write`` raises OSError or BaseError where they did not get there."""

    def write(self, events: Sequence[Event]) -> None: ...


class StdoutSink:
    """Lines of JSON among the logs; they are distinguished by ``specversion``."""

    def write(self, events: Sequence[Event]) -> None:
        """See :class:`Sink`."""
        sys.stdout.write("".join(line.decode() for line in map(_line, events)))
        sys.stdout.flush()


class S3Sink:
    """Objects of JSON lines, one per batch and partition; names never repeat."""

    def __init__(self, uri: str, writer: str) -> None:
        self._store = open_store(uri)
        self._writer = writer
        self._numbers = itertools.count()

    def write(self, events: Sequence[Event]) -> None:
        """See :class:`Sink`."""
        partitions: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            data = event["data"]
            partitions[
                f"mirrored={str(data['mirrored']).lower()}/date={event['time'][:10]}"
                f"/model={data['model'] or 'unknown'}"
            ].append(event)
        for partition, rows in partitions.items():
            name = f"{partition}/{self._writer}-{time.time_ns()}-{next(self._numbers)}.jsonl"
            self._store.put(name, b"".join(map(_line, rows)))


class HttpSink:
    """CloudEvents batches, tried again a few times."""

    def __init__(self, url: str) -> None:
        import httpx  # noqa: PLC0415 - a quarter of a second that most servers need not start with

        self._url = url
        self._client = httpx.Client(timeout=10.0)
        self._error = httpx.HTTPError

    def write(self, events: Sequence[Event]) -> None:
        """See :class:`Sink`."""
        body = orjson.dumps(events, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
        try:
            for attempt in stamina.retry_context(
                on=self._error, attempts=4, wait_initial=0.1, wait_max=2.0
            ):
                with attempt:
                    self._client.post(self._url, content=body, headers=headers).raise_for_status()
        except self._error as error:
            raise OSError(f"{self._url}: {error}") from None

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


class PredictionLog:
    """The buffer and the thread behind it. ``sink`` None switches the log off."""

    def __init__(
        self,
        sink: Sink | None,
        *,
        source: Mapping[str, str],
        sample: float = 1.0,
        inputs: InputStyle = "digest",
        max_events: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        batch_events: int = 1000,
        flush_seconds: float = 5.0,
    ) -> None:
        """``source`` names release and pod; ``sample`` is the share of requests logged."""
        self.enabled = sink is not None
        self.counts: Counter[str] = Counter()
        self._sink = sink
        self._source = source
        self._threshold = int(sample * 0x1_0000_0000)
        self._inputs: InputStyle = inputs
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._batch_events = batch_events
        self._flush_seconds = flush_seconds
        self._queue: SimpleQueue[Prediction | None] = SimpleQueue()
        self._bytes = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if sink is not None:
            self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
            self._thread.start()

    def record(self, prediction: Prediction) -> None:
        """Hand over one prediction; dropped and counted where the buffer is full.

        Whether a request is sampled depends on its id alone, so that every service that
        samples by the same share keeps the same requests.
        """
        if zlib.crc32(prediction.request_id.encode()) >= self._threshold:
            return
        if self._inputs == "none":
            prediction.inputs = None
        tensors = [*(prediction.inputs or {}).values(), *prediction.outputs.values()]
        prediction.size = size = sum(map(_bytes_of, tensors))
        with self._lock:
            if self._queue.qsize() >= self._max_events or self._bytes + size > self._max_bytes:
                self.counts["dropped"] += 1
                return
            self._bytes += size
        # where they lie is memory of the model's runs, which the log must not fill
        prediction.outputs = {name: np.array(v) for name, v in prediction.outputs.items()}
        self._queue.put(prediction)

    def close(self, *, time_limit: float = 10.0) -> None:
        """Write what is buffered, for at most ``time_limit`` seconds."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(time_limit)

    def _work(self) -> None:
        batch: list[Prediction] = []
        flush_at = 0.0
        while True:
            try:
                wait = max(0.0, flush_at - time.monotonic()) if batch else None
                prediction = self._queue.get(timeout=wait)
            except Empty:
                self._write(batch)
                batch = []
                continue
            if prediction is None:
                self._write(batch)
                return
            if not batch:
                flush_at = time.monotonic() + self._flush_seconds
            batch.append(prediction)
            if len(batch) >= self._batch_events:
                self._write(batch)
                batch = []

    def _write(self, batch: Sequence[Prediction]) -> None:
        if not batch:
            return
        assert self._sink is not None
        try:
            self._sink.write([event_of(row, self._source, self._inputs) for row in batch])
            self.counts["written"] += len(batch)
        except Exception as error:  # a log that cannot be written must not stop the next one
            self.counts["failed"] += len(batch)
            expected = isinstance(error, (OSError, BaseError))
            log.error(
                "prediction log not written",
                events=len(batch),
                reason=str(error).splitlines()[0] if str(error) else type(error).__name__,
                unexpected=not expected,
            )
        with self._lock:
            self._bytes -= sum(row.size for row in batch)


def event_of(row: Prediction, source: Mapping[str, str], inputs: InputStyle) -> Event:
    """The CloudEvent of a prediction; a mirrored one has a type of its own."""
    kind = "mirrored" if row.mirrored else "failed" if row.reason else "served"
    data: dict[str, Any] = {
        "request_id": row.request_id,
        "trace_id": row.trace.trace_id if row.trace else "",
        "model": row.model,
        "version": row.version,
        **source,
        "protocol": row.protocol,
        "mirrored": row.mirrored,
        "status": row.status,
        "rows": row.rows,
        "queue_ms": round(row.queue * 1000, 3),
        "compute_ms": round(row.compute * 1000, 3),
        "total_ms": round(row.total * 1000, 3),
    }
    if row.reason:
        data |= {"reason": row.reason, "error": row.error}
    if row.inputs is not None and inputs == "full":
        data["inputs"] = [_tensor(name, values) for name, values in row.inputs.items()]
    elif row.inputs is not None and inputs == "digest":
        data["inputs_sha256"] = _digest(row.inputs)
    data["outputs"] = [_tensor(name, values) for name, values in row.outputs.items()]
    event: Event = {
        "specversion": "1.0",
        "id": f"{row.request_id}/{source.get('pod', '')}",
        "source": f"/slipway/inference/{source.get('variant', '')}",
        "type": f"slipway.prediction.{kind}.v1",
        "time": datetime.fromtimestamp(row.finished, UTC).isoformat(timespec="microseconds"),
        "subject": f"{row.model}/{row.version}",
        "datacontenttype": "application/json",
    }
    if row.trace is not None:
        event["traceparent"] = row.trace.traceparent()
    event["data"] = data
    return event


def open_log(settings: InferenceSettings) -> PredictionLog:
    """The prediction log that the settings describe; ValueError where they do not fit together."""
    source = {"variant": settings.release_name, "pod": settings.pod_name}
    return PredictionLog(
        _open_sink(settings),
        source=source,
        sample=settings.prediction_log_sample,
        inputs=settings.prediction_log_inputs,
        max_events=settings.prediction_log_buffer,
        flush_seconds=settings.prediction_log_flush_seconds,
    )


def _open_sink(settings: InferenceSettings) -> Sink | None:
    where = settings.prediction_log
    if where == "off":
        return None
    if where == "stdout":
        return StdoutSink()
    if where.startswith("s3://"):
        return S3Sink(where, settings.pod_name or "inference")
    if where.startswith(("http://", "https://")):
        return HttpSink(where)
    raise ValueError(
        f"INFERENCE_PREDICTION_LOG is {where!r}: it must be off, stdout, s3://bucket/prefix "
        "or an http(s) URL"
    )


def _line(event: Event) -> bytes:
    return orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _tensor(name: str, values: Array) -> dict[str, Any]:
    """A tensor; ``non_finite`` counts the values that JSON cannot say, which are null."""
    tensor: dict[str, Any] = {
        "name": name,
        "datatype": of_array(values.dtype),
        "shape": list(values.shape),
        "data": to_json(values),
    }
    if count := count_of(values):
        tensor["non_finite"] = count
    return tensor


def _bytes_of(values: Array) -> int:
    """What an array holds, text and bytes behind its pointers included."""
    if values.dtype.kind != "O":
        return values.nbytes
    return values.nbytes + sum(map(sys.getsizeof, values.flat))


def _digest(inputs: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        values = inputs[name]
        digest.update(f"{name} {of_array(values.dtype)} {list(values.shape)}\n".encode())
        digest.update(to_binary(values))
    return digest.hexdigest()
