"""Prediction for people: an image, JSON or CSV in; labels and probabilities out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from kit.http.problem import Problem
from kit.oip.errors import BadAnswerError, BadTensorError
from kit.oip.messages import Packed, decode_answer, encode_request, pack
from kit.oip.non_finite import Policy, count_of, message, plain, replaced
from kit.oip.tensors import bytes_element, from_binary
from kit.pictures.decode import FIXED_BYTES
from kit.pictures.pool import BusyError, Decoding, TooCostlyError, csv_memory, json_memory
from kit.transforms import TransformError
from proxy.config.backends import HttpBackend
from proxy.http.headers import length_of
from proxy.models import tensors
from proxy.models.backend import Answer, Asking, ModelBackend
from proxy.models.metadata import Contract

Array = NDArray[Any]

IMAGES = ("image/png", "image/jpeg", "image/webp")
JSON = "application/json"
CSV = "text/csv"
TEXT = "text/plain"
TAKEN = (*IMAGES, JSON, CSV, TEXT)
MOST_PARAMETERS = 200
"""Characters of a Content-Type's parameters: it is kept with a job."""
HEAD_BYTES = 1024
"""Memory that the look at a picture's head takes."""
INLINE_BYTES = 16 * 1024
INLINE_MEMORY = FIXED_BYTES + 512 * 1024
"""What is smaller and takes less memory is decoded on the event loop: a thread would take longer.

The memory bounds the time as well: a picture of 100,000 pixels takes a millisecond or two."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """An input as the model server will get it."""

    inputs: Packed
    rows: int

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(len(raw) for _, _, raw in self.inputs.values())

    def canonical(self) -> bytes:
        """The same bytes for the same input, whatever form it came in: what a cache keys by."""
        parts: list[bytes] = []
        for name in sorted(self.inputs):
            datatype, shape, raw = self.inputs[name]
            parts.append(f"{name}\0{datatype}\0{','.join(map(str, shape))}\0".encode())
            parts.append(raw)
        return b"".join(parts)

    def dump(self) -> bytes:
        """For keeping elsewhere: a JSON line, then the tensors."""
        header = {
            "rows": self.rows,
            "inputs": [[n, d, list(s), len(raw)] for n, (d, s, raw) in self.inputs.items()],
        }
        return orjson.dumps(header) + b"\n" + b"".join(raw for _, _, raw in self.inputs.values())

    @classmethod
    def load(cls, data: bytes) -> Prepared:
        """What ``dump`` made."""
        line, _, rest = data.partition(b"\n")
        header = orjson.loads(line)
        inputs: Packed = {}
        offset = 0
        for name, datatype, shape, size in header["inputs"]:
            inputs[name] = (datatype, tuple(shape), rest[offset : offset + size])
            offset += size
        return cls(inputs, int(header["rows"]))

    def part(self, start: int, stop: int) -> Prepared:
        """Rows ``start`` to ``stop`` of a batch."""
        inputs: Packed = {}
        for name, (datatype, shape, raw) in self.inputs.items():
            if datatype == "BYTES":
                inputs |= pack(name, from_binary(name, datatype, shape, raw)[start:stop], datatype)
                continue
            size = len(raw) // shape[0]
            rows = min(stop, shape[0]) - start
            inputs[name] = (datatype, (rows, *shape[1:]), raw[start * size : stop * size])
        return Prepared(inputs, min(stop, self.rows) - start)


def media_type(content_type: str | None) -> str:
    """The lower-case media type, with its parameters where they say how a text is to be read.

    Problem 415 where it is none that is taken.
    """
    bare, _, parameters = (content_type or "").partition(";")
    bare = bare.strip().lower()
    if bare not in TAKEN or len(parameters) > MOST_PARAMETERS:
        raise Problem(
            415,
            "unsupported-media-type",
            f"Content-Type {bare or 'is missing'}: send one of {', '.join(TAKEN)}",
            headers={"accept": ", ".join(TAKEN)},
        )
    return f"{bare};{parameters}" if parameters and bare in (CSV, TEXT) else bare


async def prepare(
    payload: bytes,
    content_type: str,
    contract: Contract,
    decoding: Decoding,
    *,
    on_server: bool,
) -> Prepared:
    """The input as tensors, by the model's contract. Problem 400, 415 or 429.

    What takes more than a little memory is decoded off the event loop, all of it together
    within the memory there is for that. ``on_server`` leaves an image as it is, for a server
    that prepares it.
    """
    if not payload:
        raise Problem(400, "empty-body", "the request has no body; send an image, JSON or CSV")
    try:
        if content_type in IMAGES:
            return await _prepare_image(payload, contract, decoding, on_server=on_server)
        known = json_memory if content_type.startswith(JSON) else csv_memory
        arrays = await _decode(
            decoding, payload, known(payload), "the body",
            tensors.read, payload, contract, content_type,
        )  # fmt: skip
        if files := tensors.pictures(arrays, contract):
            return await _prepare_files(files, contract, decoding, on_server=on_server)
    except (TransformError, BadTensorError, TooCostlyError) as error:
        raise Problem(400, "bad-input", f"{contract.model}: {error}") from None
    except BusyError as error:
        raise Problem(
            429, "decoding-busy", f"{contract.model}: {error}", headers={"retry-after": "1"}
        ) from None
    datatypes = {tensor.name: tensor.datatype for tensor in contract.inputs}
    inputs: Packed = {}
    for name, array in arrays.items():
        inputs |= pack(name, array, datatypes[name])
    return Prepared(inputs, tensors.count_rows(arrays, contract.inputs))


async def _prepare_image(
    payload: bytes, contract: Contract, decoding: Decoding, *, on_server: bool
) -> Prepared:
    if contract.preparation is None:
        raise Problem(
            415,
            "unsupported-media-type",
            f"{contract.model} takes no images (its contract has no `preprocess`); "
            f"send {JSON} or {CSV}",
        )
    tensor = contract.inputs[0]
    if on_server:
        return Prepared({tensor.name: ("BYTES", (1,), bytes_element(payload))}, 1)
    image = contract.preparation.read_head(payload)
    row = await _decode(decoding, payload, image.memory, "the image", image.row)
    return Prepared(pack(tensor.name, tensors.converted(row, tensor), tensor.datatype), 1)


async def _prepare_files(
    files: Sequence[bytes], contract: Contract, decoding: Decoding, *, on_server: bool
) -> Prepared:
    """A row for each of several pictures; all their rows are in memory together."""
    preparation, tensor = contract.preparation, contract.inputs[0]
    assert preparation is not None
    if on_server:
        elements = b"".join(bytes_element(each) for each in files)
        return Prepared({tensor.name: ("BYTES", (len(files),), elements)}, len(files))

    def memory() -> int:
        heads = [preparation.read_head(each) for each in files]
        return max(head.memory for head in heads) + 2 * sum(head.result for head in heads)

    def packed() -> Packed:
        each_row = [preparation(each) for each in files]
        if len({row.shape for row in each_row}) > 1:
            raise BadTensorError(f"input {tensor.name!r}: the images differ in shape")
        rows = np.stack(each_row)
        return pack(tensor.name, tensors.converted(rows, tensor), tensor.datatype)

    what = f"{len(files)} images"
    most = await decoding.run(HEAD_BYTES * len(files), what, memory)
    return Prepared(await decoding.run(most, what, packed), len(files))


async def _decode(
    decoding: Decoding,
    payload: bytes,
    memory: int,
    what: str,
    work: Callable[P, T],
    *arguments: P.args,
    **named: P.kwargs,
) -> T:
    """Little work is done here, one after another; the rest waits for memory and a thread."""
    if len(payload) <= INLINE_BYTES and memory <= INLINE_MEMORY:
        return work(*arguments, **named)
    return await decoding.run(memory, what, work, *arguments, **named)


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

    @property
    def non_finite(self) -> int:
        """How many of the values that are shown JSON cannot say."""
        scores = self.outputs.get(self.probabilities)
        shown = self.outputs.values() if scores is None or not self.labels else [scores]
        return sum(map(count_of, shown))

    def rows(self) -> list[dict[str, Any]]:
        """Each row for people: label, probability and probabilities, or the bare outputs."""
        scores = self.outputs.get(self.probabilities)
        given = self.outputs.get(self.label)
        if scores is None or not self.labels:
            return _bare(
                {name: replaced(array, self.policy) for name, array in self.outputs.items()}
            )
        rows: list[dict[str, Any]] = []
        for position, row in enumerate(scores):
            best = int(row.argmax())
            label: str | None = None  # NaN is larger than nothing and smaller than nothing
            if not np.isnan(row).any():
                label = self.labels[best] if given is None else str(given.reshape(-1)[position])
            rows.append(
                {
                    "label": label,
                    "probability": _number(row[best], self.policy),
                    "probabilities": {
                        name: _number(score, self.policy)
                        for name, score in zip(self.labels, row, strict=True)
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


_LARGE_FIELDS = ("predictions", "outputs")


def _text_bytes(array: Array) -> int:
    return sum(map(len, array.ravel())) if array.dtype.kind == "O" else 0


def _number(value: Any, policy: Policy) -> Any:
    number = np.float64(value)
    return round(float(number), 6) if np.isfinite(number) else plain(np.array(number), policy)


def _bare(outputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    count = min((len(array) for array in outputs.values() if array.ndim), default=1)
    if any(array.ndim == 0 for array in outputs.values()):
        return [{"outputs": {name: _plain(array) for name, array in outputs.items()}}]
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


async def predict(
    backend: ModelBackend,
    contract: Contract,
    prepared: Prepared,
    asking: Asking,
    decoding: Decoding,
) -> Prediction:
    """Ask a model of the Open Inference Protocol. Problem 400, 429, 502, 503 or 504."""
    body, length = encode_request(prepared.inputs, identity=asking.request_id.decode())
    answer = await backend.infer(body, length, asking)
    if len(answer.body) <= INLINE_BYTES:
        return interpret(answer, contract)
    with _shown(contract.model):
        return await decoding.run(
            _answer_memory(answer), "the model's answer", interpret, answer, contract
        )


async def shown(prediction: Prediction, decoding: Decoding) -> dict[str, Any]:
    """A prediction's document, made in a thread where it is large. Problem 400 or 429."""
    memory = prediction.memory
    if memory <= INLINE_MEMORY:
        return prediction.document()
    with _shown(prediction.model):
        return await decoding.run(memory, "the answer as JSON", prediction.written)


@contextmanager
def _shown(model: str) -> Iterator[None]:
    """What an answer takes too much memory for, as a Problem."""
    try:
        yield
    except TooCostlyError as error:
        raise Problem(
            400,
            "answer-too-large",
            f"{model}: {error}; send fewer rows at a time, or ask /v2 for binary outputs",
        ) from None
    except BusyError as error:
        raise Problem(
            429, "decoding-busy", f"{model}: {error}", headers={"retry-after": "1"}
        ) from None


def _answer_memory(answer: Answer) -> int:
    """The most bytes that an answer takes as arrays, and what its JSON takes before."""
    size = answer.headers.get("inference-header-content-length")
    split = length_of(size) if size is not None else None
    written = answer.body if split is None else answer.body[:split]
    texts = 32 if b'"BYTES"' in written else 2
    return json_memory(written) + texts * (len(answer.body) - len(written))


def interpret(answer: Answer, contract: Contract) -> Prediction:
    """The prediction in a server's answer; its errors become ours."""
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
    prediction = Prediction(
        model=contract.model,
        version=answer.headers.get("x-slipway-model-version")
        or str(document.get("model_version") or contract.version),
        variant=answer.headers.get("x-slipway-variant", ""),
        pod=answer.headers.get("x-slipway-pod", ""),
        outputs=outputs,
        labels=contract.labels,
        probabilities=probabilities,
        label=label,
        queue_ms=answer.headers.get("x-slipway-queue-ms", ""),
        compute_ms=answer.headers.get("x-slipway-compute-ms", ""),
        policy=contract.non_finite,
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


def prepares_on_server(backend: ModelBackend) -> bool:
    """Whether the model's server turns images into tensors itself."""
    return isinstance(backend.settings, HttpBackend) and backend.settings.prepare == "server"
