"""How requests ended: counted, and written to the prediction log and to traces."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from inference.engine.call import Answer, Call
from inference.engine.request import InferRequest
from inference.errors import BadRequest, InferenceError
from inference.models.served import ServedModel
from inference.prediction_log import Prediction, PredictionLog
from kit.http.refusals import RefusalCount
from kit.oip.errors import BadTensorError
from kit.telemetry import logs
from kit.telemetry.spans import Spans
from kit.telemetry.tracing import TraceContext

log = logs.get("inference.engine")


class Outcomes:
    """Counts every request once, by how it ended. Use it from the event loop only."""

    def __init__(self, prediction_log: PredictionLog, spans: Spans | None) -> None:
        self.refused: Counter[str] = Counter()
        """Requests that were refused before a model was looked up, by reason."""
        self.probes: Counter[int] = Counter()
        """Requests of the verifier by status, which everything else leaves out."""
        self.prediction_log = prediction_log
        self.spans = spans
        self._refused_by_model = RefusalCount(_log_refused)

    @property
    def traces(self) -> bool:
        """Whether spans are exported, so that a request without a trace starts one."""
        return self.spans is not None

    def count_refused(self, served: ServedModel | None, loop: asyncio.AbstractEventLoop) -> None:
        """Count a request that was refused unparsed; the log gets their number, not each."""
        self.refused["overloaded"] += 1
        self._refused_by_model.add(served.name if served is not None else "", loop)

    def succeeded(
        self, served: ServedModel, request: InferRequest, call: Call, answer: Answer
    ) -> None:
        """The answer is on its way: count it, and log and trace it where that is on."""
        now = time.monotonic()
        total = now - call.started
        if call.probe:
            self.probes[200] += 1
        else:
            served.statistics.succeeded(
                call.protocol,
                request.rows,
                decode=answer.decode,
                queue=answer.queue,
                compute=answer.compute,
                encode=now - answer.finished,
                total=total,
            )
        if self.prediction_log.enabled and not call.probe:
            self.prediction_log.record(
                Prediction(
                    call.request_id, call.protocol, served.name, served.version, 200,
                    finished=time.time(), total=total, trace=call.trace, mirrored=call.mirrored,
                    rows=request.rows, inputs=request.feeds, outputs=answer.outputs,
                    queue=answer.queue, compute=answer.compute,
                )
            )  # fmt: skip
        if self.spans is not None and call.trace is not None:
            self._trace(call, call.trace, served, total, 200, "", answer)

    def failed(
        self,
        served: ServedModel | None,
        call: Call,
        cause: Exception,
        request: InferRequest | None = None,
    ) -> InferenceError:
        """The same for an error; gives the error that the caller gets.

        ``served`` is None where no model was found for it, ``request`` where it was not parsed.
        """
        error = failure_of(cause)
        total = time.monotonic() - call.started
        if call.probe:
            self.probes[error.status] += 1
        elif served is None:
            self.refused[error.reason] += 1
        else:
            served.statistics.failed(call.protocol, error.status, error.reason, total)
        if self.prediction_log.enabled and not call.probe:
            self.prediction_log.record(
                Prediction(
                    call.request_id, call.protocol, served.name if served else "",
                    served.version if served else "", error.status,
                    finished=time.time(), total=total, trace=call.trace, mirrored=call.mirrored,
                    rows=request.rows if request else 0,
                    inputs=request.feeds if request else None,
                    reason=error.reason, error=error.message,
                )
            )  # fmt: skip
        if self.spans is not None and call.trace is not None:
            self._trace(call, call.trace, served, total, error.status, error.reason, None)
        return error

    def _trace(
        self,
        call: Call,
        context: TraceContext,
        served: ServedModel | None,
        total: float,
        *outcome: Any,
    ) -> None:
        spans, end = self.spans, time.time_ns()
        assert spans is not None
        status, reason, answer = outcome
        attributes: dict[str, str | int | float | bool] = {
            "slipway.protocol": call.protocol,
            "slipway.request_id": call.request_id,
            "http.response.status_code": status,
        }
        if served is not None:
            attributes |= {"slipway.model": served.name, "slipway.version": served.version}
        if answer is not None:
            attributes |= {
                "slipway.queue_ms": round(answer.queue * 1000, 3),
                "slipway.compute_ms": round(answer.compute * 1000, 3),
            }
        spans.add(
            f"infer {served.name}" if served else "infer",
            context,
            parent=call.caller,
            start_ns=end - int(total * 1e9),
            end_ns=end,
            attributes=attributes,
            error=reason,
        )

    def close(self) -> None:
        """Send what is left of log and spans."""
        self.prediction_log.close()
        if self.spans is not None:
            self.spans.close()


def _log_refused(model: str, count: int) -> None:
    log.warning("requests refused", model=model, reason="overloaded", count=count)


def failure_of(error: Exception) -> InferenceError:
    """The error that the caller gets: this one, or that there is a defect of ours (logged)."""
    if isinstance(error, InferenceError):
        return error
    if isinstance(error, BadTensorError):
        return BadRequest(str(error))
    log.error("unexpected error", exc_info=error)
    return InferenceError(f"unexpected {type(error).__name__}: see the server's log")
