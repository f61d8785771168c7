"""The settings of the model server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kit.settings import DecodingSettings

MEBIBYTE = 1024 * 1024


class InferenceSettings(DecodingSettings):
    """Settings of the model server, from its environment."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_")

    model_repository: Annotated[
        str,
        Field(description="Where models lie: a folder or s3://bucket[/prefix], <name>/<version>/."),
    ] = "/models"
    cache_folder: Annotated[
        str, Field(description="Where models from S3 are kept while they are served.")
    ] = "/tmp/models"  # noqa: S108 - an emptyDir of the pod
    models: Annotated[
        list[str], Field(description="Names of the models to load; empty loads all of them.")
    ] = []  # noqa: RUF012 - pydantic copies it
    version_policy: Annotated[
        Literal["all", "latest"],
        Field(description="Load every version of a model, or its newest alone."),
    ] = "all"
    pinned_versions: Annotated[
        dict[str, str],
        Field(description="Version that answers where none is named, by model name."),
    ] = {}  # noqa: RUF012 - pydantic copies it
    default_model: Annotated[
        str,
        Field(description="Model behind /invocations; default the only one that is loaded."),
    ] = ""
    repository_control: Annotated[
        bool,
        Field(description="Let callers load and unload models (/v2/repository)."),
    ] = False
    repository_poll_seconds: Annotated[
        float,
        Field(ge=0, description="How often to look for new versions; 0 never looks."),
    ] = 0.0
    fetch_timeout_seconds: Annotated[
        float, Field(gt=0, description="Time limit for fetching one model.")
    ] = 600.0

    non_finite_outputs: Annotated[
        Literal["null", "string", "error"],
        Field(
            description="What JSON answers hold for NaN and infinities: `null`, `string` (NaN, "
            "Infinity, -Infinity), or `error` (no answer); X-Slipway-Non-Finite counts them."
        ),
    ] = "null"
    grpc_enabled: Annotated[bool, Field(description="Serve the protocol over gRPC too.")] = True
    grpc_port: Annotated[int, Field(ge=0, le=65535, description="Port of gRPC.")] = 8081

    grpc_max_message_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="Largest message of gRPC; 0 takes a sixteenth of body_memory_bytes. As "
            "many arrive at the same time as that memory holds of this size; others wait.",
        ),
    ] = 0

    max_batch_size: Annotated[
        int, Field(ge=1, description="Most rows run together, where model.json says nothing.")
    ] = 64
    max_queue_size: Annotated[
        int,
        Field(ge=1, description="Most rows waiting for a model, where model.json says nothing."),
    ] = 1024
    max_queue_delay_ms: Annotated[
        float | Literal["auto"],
        Field(
            description="How long a free instance may wait for more rows while another one runs; "
            "`auto` learns it from measured durations."
        ),
    ] = 0.0
    instances: Annotated[
        int, Field(ge=1, le=64, description="Batches of one model that may run side by side.")
    ] = 1
    threads: Annotated[
        int,
        Field(ge=0, description="Threads of ONNX Runtime; 0 follows the cgroup's CPU quota."),
    ] = 0
    run_memory_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="Memory that the runs of one model take at most, beside its weights; a "
            "request that needs more gets 400. 0 takes a quarter of the container's memory limit, "
            "or of the machine's memory.",
        ),
    ] = 0
    warmup_runs: Annotated[
        int, Field(ge=0, description="Runs of each batch size before a model is ready.")
    ] = 2

    max_body_bytes: Annotated[
        int, Field(gt=0, description="Largest body accepted, counted as it arrives.")
    ] = 64 * MEBIBYTE
    max_json_bytes: Annotated[
        int,
        Field(
            gt=0,
            description="Largest JSON, CSV or typed gRPC contents accepted: parsing them holds up "
            "everything else, so larger tensors are sent as binary data.",
        ),
    ] = 8 * MEBIBYTE
    max_in_flight: Annotated[
        int,
        Field(
            ge=1,
            description="Most requests under way for all models together, from when their "
            "bodies are there: a bound of memory. What a model takes follows target_wait_ms.",
        ),
    ] = 4096
    target_wait_ms: Annotated[
        float,
        Field(
            gt=0,
            description="Longest a request should wait before its model runs it. A model has as "
            "many requests under way as it was measured to answer so, and at least two batches; "
            "past them they get 429.",
        ),
    ] = 100.0
    default_timeout_seconds: Annotated[
        float,
        Field(gt=0, description="Time a request gets that names none, its body's way included."),
    ] = 30.0
    max_timeout_seconds: Annotated[
        float, Field(gt=0, description="Most time a request can ask for.")
    ] = 300.0

    prediction_log: Annotated[
        str,
        Field(
            pattern="^(off|stdout|s3://.+|https?://.+)$",
            description="Where every prediction is written: off, stdout, s3://bucket/prefix or "
            "a URL that takes CloudEvents batches.",
        ),
    ] = "off"
    prediction_log_sample: Annotated[
        float, Field(ge=0, le=1, description="Share of requests that are written, by request id.")
    ] = 1.0
    prediction_log_inputs: Annotated[
        Literal["digest", "full", "none"],
        Field(description="Inputs in the log: their sha256, all of them, or nothing."),
    ] = "digest"
    prediction_log_buffer: Annotated[
        int, Field(ge=1, description="Most events waiting to be written; more are dropped.")
    ] = 10_000
    prediction_log_flush_seconds: Annotated[
        float, Field(gt=0, description="Longest an event waits for its batch.")
    ] = 5.0
