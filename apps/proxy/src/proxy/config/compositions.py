"""Ensembles and pipelines: several models behind one name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from proxy.config.types import Closed


class Member(Closed):
    """A model in an ensemble. A hard member that fails fails the ensemble, a soft one is named."""

    model: str
    required: bool = True
    weight: Annotated[float, Field(gt=0)] = 1.0


class Ensemble(Closed):
    """Several models asked side by side, their answers merged."""

    members: Annotated[list[Member], Field(min_length=1)]
    merge: Literal["vote", "mean", "named"] = "mean"
    timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    minimum: Annotated[int, Field(ge=1)] = 1


class Step(Closed):
    """One model of a pipeline. `inputs` renames the step before's outputs to this one's inputs."""

    model: str
    inputs: dict[str, str] = Field(default_factory=dict)


class Pipeline(Closed):
    """Models asked one after another, each given the outputs of the one before."""

    steps: Annotated[list[Step], Field(min_length=1)]
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
