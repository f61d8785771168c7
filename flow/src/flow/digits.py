"""The main job, first half: held-out handwritten digits go through the gateway."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx

from flow.errors import FlowError
from trainer import digits


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of the table; ``milliseconds`` as this client saw them."""

    true_label: str
    label: str
    probability: float
    model_version: str
    pod: str
    milliseconds: float


def predict(gateway: str, host: str, *, count: int = 10) -> list[Prediction]:
    """Send one held-out digit of each label, ``count`` in all, as PNG images.

    FlowError for an answer that is no prediction.
    """
    _, held_out = digits.split()
    labels = [str(label) for label in held_out.labels]
    rows = [labels.index(str(number % 10)) for number in range(min(count, 10))]
    rows += [row for row in range(len(labels)) if row not in rows][: count - len(rows)]
    found = []
    with httpx.Client(base_url=gateway, headers={"Host": host}, timeout=10) as client:
        for row in rows:
            begin = time.perf_counter()
            answer = client.post(
                "/v1/predict/digits",
                content=digits.png(held_out.pixels[row]),
                headers={"Content-Type": "image/png"},
            )
            elapsed = (time.perf_counter() - begin) * 1000
            if answer.status_code != 200:
                raise FlowError(
                    f"http://{host} answers {answer.status_code} to a digit: {answer.text[:500]}"
                )
            body = answer.json()
            found.append(
                Prediction(
                    true_label=labels[row],
                    label=str(body["label"]),
                    probability=float(body["probability"]),
                    model_version=str(body["version"]),
                    pod=str(body["pod"]),
                    milliseconds=elapsed,
                )
            )
    return found
