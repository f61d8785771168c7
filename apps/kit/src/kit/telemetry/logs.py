"""JSON logs on stdout, each line with the trace and request it belongs to."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from kit.telemetry import tracing


def _add_request(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    context = tracing.current.get()
    if context is not None:
        event["trace_id"] = context.trace_id
        event["span_id"] = context.span_id
    if (identity := tracing.request_id.get()) != "":
        event["request_id"] = identity
    return event


def configure(*, level: str = "info", service: str, **fields: str) -> None:
    """Send structlog and the standard library's loggers to stdout as JSON lines.

    ``fields`` (pod, release, revision) stand in every line; empty ones are left out.
    """
    constant = {"service": service} | {name: value for name, value in fields.items() if value}

    def add_constant(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        return {**event, **constant}

    stdout = cast(TextIO, _Stdout())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _add_request,
        add_constant,
        structlog.processors.EventRenamer("message"),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(ensure_ascii=False)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # One write per line: `print` writes the line feed by itself, and threads get in between.
        logger_factory=structlog.WriteLoggerFactory(stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)


class _Stdout:
    """Whatever ``sys.stdout`` is when a line is written: a test's own may be closed by then."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger; call it with an event and its fields: ``log.info("loaded", model="digits")``."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger
