"""A model server's answer as a prediction for people, or as the problem that it is."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from kit.http.problem import Problem
from kit.oip.errors import BadAnswerError
from kit.oip.messages import decode_answer
from kit.oip.non_finite import Policy, count_of, message, plain, replaced
from kit.oip.row_outputs import in_rows
from kit.oip.tensors import Array
from kit.transforms import TransformError
from proxy.http.headers import length_of
from proxy.models.backend import Answer
from proxy.models.metadata import Contract


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's outputs and who made them."""

    model: str
    version: str
    variant: str
    pod: str
    outputs: dict[str, Array]
    labels: tuple[str, ...]
    probabilities: str = ""
    label: str = ""
    queue_ms: str = ""
    compute_ms: str = ""
    policy: Policy = "null"
    in_rows: bool = True
    """Whether the outputs hold a row for each row that was asked for."""

    @property
    def non_finite(self) -> int:
        """How many of the values that are shown JSON cannot say."""
        scores = self.outputs.get(self.probabilities)
        shown = self.outputs.values() if scores is None or not self.labels else [scores]
        return sum(map(count_of, shown))

    def rows(self) -> list[dict[str, Any]]:
        """Each row for people: label, probability and probabilities, or the bare outputs.

        Outputs that hold no rows stand together, all of each, as those of one.
        """
        scores = self.outputs.get(self.probabilities)
        given = self.outputs.get(self.label)
        if scores is None or not self.labels:
            return _bare(
                {name: replaced(array, self.policy) for name, array in self.outputs.items()},
                in_rows=self.in_rows,
            )
        rows: list[dict[str, Any]] = []
        names = distinct(self.labels)
        for position, row in enumerate(scores):
            best = int(row.argmax())
            label: str | None = None  # NaN is larger than nothing and smaller than nothing
            if not np.isnan(row).any():
                label = self.labels[best] if given is None else str(given.reshape(-1)[position])
                label = names[best] if label == self.labels[best] else label
            rows.append(
                {
                    "label": label,
                    "probability": _number(row[best], self.policy),
                    "probabilities": {
                        name: _number(score, self.policy)
                        for name, score in zip(names, row, strict=True)
                    },
                }
            )
        return rows

    @property
    def memory(self) -> int:
        """The most bytes that its rows take as Python objects and as JSON."""
        scores = self.outputs.get(self.probabilities)
        if scores is not None and self.labels:
            return int(scores.size) * 224 + len(scores) * 640
        arrays = self.outputs.values()
        rows = max((len(array) for array in arrays if array.ndim), default=1)
        texts = sum(_text_bytes(array) for array in arrays)
        return sum(array.size for array in arrays) * 96 + rows * 640 + 4 * texts

    @property
    def head(self) -> dict[str, Any]:
        """Who answered."""
        return {
            "model": self.model,
            "version": self.version,
            "variant": self.variant,
            "pod": self.pod,
        }

    def document(self) -> dict[str, Any]:
        """The answer of `/v1/predict`: one row's fields stand beside the model's."""
        rows = self.rows()
        body = rows[0] if len(rows) == 1 else {"predictions": rows}
        said = {"non_finite": self.non_finite} if self.non_finite else {}
        return {**self.head, **body, **said}

    def written(self) -> dict[str, Any]:
        """The same, with what may be large in it written as JSON already."""
        return {
            name: orjson.Fragment(orjson.dumps(value)) if name in _LARGE_FIELDS else value
            for name, value in self.document().items()
        }


def distinct(labels: Sequence[str]) -> Sequence[str]:
    """The labels as names, of which a JSON object holds each once.

    Those that stand for several classes (ImageNet has two cranes) get the number of theirs.
    """
    if len(set(labels)) == len(labels):
        return labels
    count = Counter(labels)
    names = [f"{label} #{at}" if count[label] > 1 else label for at, label in enumerate(labels)]
    if len(set(names)) == len(names):
        return names
    return [f"{label} #{at}" for at, label in enumerate(labels)]


_LARGE_FIELDS = ("predictions", "outputs")


def _text_bytes(array: Array) -> int:
    return sum(map(len, array.ravel())) if array.dtype.kind == "O" else 0


def _number(value: Any, policy: Policy) -> Any:
    number = np.float64(value)
    return round(float(number), 6) if np.isfinite(number) else plain(np.array(number), policy)


def _bare(outputs: Mapping[str, Array], *, in_rows: bool) -> list[dict[str, Any]]:
    if not in_rows:
        return [{"outputs": {name: _plain(array) for name, array in outputs.items()}}]
    count = len(next(iter(outputs.values())))
    return [
        {"outputs": {name: _plain(array[row]) for name, array in outputs.items()}}
        for row in range(count)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind != "O":
            return value.tolist()
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):  # text comes as str: these are no UTF-8
        return {"b64": base64.b64encode(value).decode()}
    return value


def interpret(answer: Answer, contract: Contract, rows: int | None = None) -> Prediction:
    """The prediction in a server's answer to ``rows`` rows; its errors become ours."""
    if answer.status != 200:
        raise refused(answer, contract.model)
    size = answer.headers.get("inference-header-content-length")
    try:
        split = None if size is None else length_of(size)
        if size is not None and split is None:
            raise BadAnswerError(f"Inference-Header-Content-Length is {size[:32]!r}")
        document, outputs = decode_answer(answer.body, split)
        probabilities, label = _roles(contract, outputs)
        if contract.finish is not None and not all(n in outputs for n in contract.finish.outputs):
            outputs = contract.finish(outputs)
            probabilities, label = _roles(contract, outputs)
    except (BadAnswerError, TransformError, ValueError) as error:
        raise Problem(502, "bad-answer", f"{contract.model}: {error}") from error
    scores = outputs.get(probabilities)
    labelled = scores is not None and scores.ndim == 2 and scores.shape[1] == len(contract.labels)
    prediction = Prediction(
        model=contract.model,
        version=answer.headers.get("x-slipway-model-version")
        or str(document.get("model_version") or contract.version),
        variant=answer.headers.get("x-slipway-variant", ""),
        pod=answer.headers.get("x-slipway-pod", ""),
        outputs=outputs,
        labels=contract.labels if labelled else (),
        probabilities=probabilities,
        label=label,
        queue_ms=answer.headers.get("x-slipway-queue-ms", ""),
        compute_ms=answer.headers.get("x-slipway-compute-ms", ""),
        policy=contract.non_finite,
        in_rows=in_rows(outputs, contract.outputs, contract.inputs, rows=rows),
    )
    if contract.non_finite == "error" and prediction.non_finite:
        raise Problem(502, "non-finite-output", message(prediction.non_finite))
    return prediction


def _roles(contract: Contract, outputs: Mapping[str, Array]) -> tuple[str, str]:
    """Which output holds probabilities, and which the label.

    The label is what a ``label_lookup`` made; the probabilities are what it looked at, else the
    one output of floats that is as wide as there are labels.
    """
    for step in reversed(contract.finish.steps if contract.finish else ()):
        if step.transform == "label_lookup":
            return step.input, step.output if step.output in outputs else ""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] == len(contract.labels):
            return name, ""
    return "", ""


def refused(answer: Answer, model: str) -> Problem:
    """A model server's refusal as ours: its 4xx are the caller's, its 5xx are not."""
    try:
        document = orjson.loads(answer.body)
        said = document.get("error") or document.get("detail") or ""
    except (orjson.JSONDecodeError, AttributeError):
        said = ""
    said = str(said)[:500]
    retry = (
        {"retry-after": answer.headers["retry-after"]} if "retry-after" in answer.headers else {}
    )
    detail = f"{model}: its server answered {answer.status}" + (f": {said}" if said else "")
    if answer.status in (400, 413, 422):
        return Problem(400, "bad-input", detail)
    if answer.status == 429:
        return Problem(429, "backend-busy", detail, headers=retry or {"retry-after": "1"})
    if answer.status == 404:
        return Problem(503, "model-unavailable", detail, headers={"retry-after": "5"})
    if answer.status == 503:
        return Problem(503, "model-unavailable", detail, headers=retry or {"retry-after": "2"})
    if answer.status == 504:
        return Problem(504, "deadline-exceeded", detail)
    return Problem(502, "model-failed", detail, upstream_status=answer.status)
