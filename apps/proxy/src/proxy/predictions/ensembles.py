"""Several models for one question: side by side (ensembles) or one after another (pipelines)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from kit.http.problem import Problem
from kit.oip.errors import BadTensorError
from kit.oip.messages import Packed, pack
from kit.oip.tensors import Array
from proxy.config.compositions import Ensemble, Member, Pipeline, Step
from proxy.models import tensors
from proxy.models.backend import Asking
from proxy.models.metadata import Contract
from proxy.models.registry import Models
from proxy.predictions.answers import Prediction
from proxy.predictions.inputs import Prepared
from proxy.predictions.predict import predict, shown
from proxy.predictions.predictor import Outcome, Predictor


@dataclass(frozen=True, slots=True)
class Question:
    """An input, its form, and on whose behalf it is asked."""

    kind: str
    payload: bytes
    asking: Asking
    owner: str


async def ask_ensemble(
    name: str, ensemble: Ensemble, models: Models, predictor: Predictor, question: Question
) -> dict[str, Any]:
    """Ask all members side by side and merge their answers.

    A hard member's failure is the ensemble's; a soft member's is named under ``failed``, unless
    fewer than ``minimum`` answered. Raises Problem.
    """
    asking = question.asking
    deadline = min(asking.deadline, monotonic() + ensemble.timeout_seconds)

    async def ask(member: Member) -> Outcome:
        own = replace(asking, deadline=deadline, upstream_seconds=0.0)
        try:
            async with asyncio.timeout(max(0.001, deadline - monotonic())):
                return await predictor.run(
                    await models.find(member.model),
                    question.kind,
                    question.payload,
                    own,
                    owner=question.owner,
                )
        except TimeoutError:
            raise Problem(
                504, "deadline-exceeded", f"{member.model} did not answer in time"
            ) from None
        finally:
            asking.upstream_seconds = max(asking.upstream_seconds, own.upstream_seconds)

    tasks = {asyncio.create_task(ask(member)): member for member in ensemble.members}
    answers: dict[str, dict[str, Any]] = {}
    failed: dict[str, dict[str, Any]] = {}
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                member = tasks[task]
                try:
                    answers[member.model] = task.result().document
                except Problem as problem:
                    failed[member.model] = failure(name, member, problem)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if len(answers) < ensemble.minimum:
        raise Problem(
            503,
            "ensemble-incomplete",
            f"{name} needs {ensemble.minimum} answers and got {len(answers)}",
            failed=failed,
        )
    ordered = {m.model: answers[m.model] for m in ensemble.members if m.model in answers}
    weights = {member.model: member.weight for member in ensemble.members}
    merged = merge(name, ensemble.merge, ordered, weights)
    return {"ensemble": name, **merged, "members": ordered, "failed": failed, **_said(ordered)}


def _said(answers: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many values of all members JSON cannot say, where there are any."""
    count = sum(answer.get("non_finite", 0) for answer in answers.values())
    return {"non_finite": count} if count else {}


def failure(name: str, member: Member, problem: Problem) -> dict[str, Any]:
    """What is said about a soft member that failed; a hard one's problem is raised."""
    if member.required:
        raise Problem(
            problem.status,
            problem.type,
            f"{name} needs {member.model}: {problem.detail}",
            headers=problem.headers,
            member=member.model,
        ) from problem
    return {"type": problem.type, "status": problem.status, "detail": problem.detail}


def merge(
    name: str, how: str, answers: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]
) -> dict[str, Any]:
    """One answer of several. Pure.

    ``vote``: the label most of the weight is for; a tie goes to the label that is more probable.
    ``mean``: the weighted mean of the probabilities, by label. ``named``: nothing, the members
    stand beside each other. Problem 502 where members do not have what merging needs.
    """
    if how == "named":
        return {}
    total = sum(weights[model] for model in answers)
    votes: dict[str, float] = {}
    sums: dict[str, float] = {}
    for model, answer in answers.items():
        probabilities = answer.get("probabilities")
        if not isinstance(probabilities, Mapping) or answer.get("label") is None:
            raise Problem(
                502,
                "members-disagree",
                f"{name} merges by {how}, but {model} gave no label with probabilities "
                "(a batch of rows, or a model without labels); use `named`",
            )
        votes[answer["label"]] = votes.get(answer["label"], 0.0) + weights[model]
        for label, value in probabilities.items():
            if not isinstance(value, float | int):
                raise Problem(
                    502,
                    "non-finite-output",
                    f"{name} merges by {how}, but {model} gave {label!r} no finite probability; "
                    "use `named`, or mend the model",
                )
            sums[label] = sums.get(label, 0.0) + weights[model] * value
    labels = [set(answer["probabilities"]) for answer in answers.values()]
    if how == "mean" and any(names != labels[0] for names in labels):
        raise Problem(502, "members-disagree", f"the members of {name} have different labels")
    means = {label: round(value / total, 6) for label, value in sums.items()}
    if how == "mean":
        best = max(means, key=lambda label: means[label])
        return {"label": best, "probability": means[best], "probabilities": means}
    best = max(votes, key=lambda label: (votes[label], means.get(label, 0.0)))
    return {
        "label": best,
        "probability": means.get(best, 0.0),
        "votes": votes,
        "probabilities": means,
    }


async def ask_pipeline(
    name: str, pipeline: Pipeline, models: Models, predictor: Predictor, question: Question
) -> dict[str, Any]:
    """Ask one model after another, each given what the one before said. Raises Problem."""
    asking = question.asking
    asking.deadline = min(asking.deadline, monotonic() + pipeline.timeout_seconds)
    prediction: Prediction | None = None
    passed: list[dict[str, Any]] = []
    for number, step in enumerate(pipeline.steps, start=1):
        backend = await models.find(step.model)
        if not backend.has_contract:
            raise Problem(
                501,
                "not-supported",
                f"step {number} of {name} is on SageMaker, which takes no tensors by name",
            )
        contract = await backend.contract(asking)
        if prediction is None:
            prepared = await predictor.prepared(
                backend, question.kind, question.payload, contract, question.owner
            )
        else:
            try:
                prepared = connect(prediction.outputs, contract, step)
            except BadTensorError as error:
                raise Problem(
                    502, "steps-disagree", f"step {number} of {name} ({step.model}): {error}"
                ) from None
        async with predictor.holding(prepared, step.model):
            prediction = await predict(backend, contract, prepared, asking, predictor.decoding)
        passed.append({"model": prediction.model, "version": prediction.version})
    assert prediction is not None
    document = await shown(prediction, predictor.decoding)
    return {"pipeline": name, **document, "steps": passed}


def connect(outputs: Mapping[str, Array], contract: Contract, step: Step) -> Prepared:
    """One model's outputs as the next one's inputs. Pure; BadTensorError where they do not fit.

    An input takes the output that ``inputs`` renames to it, else the one of its own name, else
    the only one there is.
    """
    renamed = {wanted: given for given, wanted in step.inputs.items()}
    inputs: Packed = {}
    rows = 0
    for tensor in contract.inputs:
        source = renamed.get(tensor.name, tensor.name)
        array = outputs.get(source)
        if array is None and len(contract.inputs) == 1 and len(outputs) == 1 and not renamed:
            array = next(iter(outputs.values()))
        if array is None:
            raise BadTensorError(
                f"nothing becomes its input {tensor.name}: the step before gives {sorted(outputs)}"
            )
        fitted = tensors.converted(array, tensor)
        rows = len(fitted) if fitted.ndim else 1
        inputs |= pack(tensor.name, fitted, tensor.datatype)
    return Prepared(inputs, rows)
