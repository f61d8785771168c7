"""SageMaker's asynchronous inference: input in S3, answer in S3, a job waits for it."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from kit.http.problem import Problem
from proxy.config.backends import AsyncOutput
from proxy.models.backend import Answer, Asking
from proxy.models.sagemaker import SageMakerModel, document_of, mapped


async def invoke(
    model: SageMakerModel,
    output: AsyncOutput,
    identity: str,
    *,
    payload: bytes,
    content_type: str,
    asking: Asking,
) -> dict[str, Any]:
    """InvokeEndpointAsync, then look for the answer until the job's deadline. Raises Problem."""
    key = f"{output.prefix}/{identity}/input"
    try:
        await model.run(
            lambda s3: s3.put_object(
                Bucket=output.bucket, Key=key, Body=payload, ContentType=content_type
            ),
            "s3",
        )
        begun = await model.run(
            lambda client: client.invoke_endpoint_async(
                EndpointName=model.settings.endpoint,
                InputLocation=f"s3://{output.bucket}/{key}",
                ContentType=content_type,
                InferenceId=identity,
                CustomAttributes=f"traceparent={asking.traceparent.decode()}",
            ),
            "sagemaker-runtime",
        )
        while monotonic() < asking.deadline:
            body = await _read(model, begun["OutputLocation"])
            if body is not None:
                said = document_of(Answer(200, {}, body))
                return {"model": model.name, "version": "", "variant": "", "pod": "", **said}
            failure = begun.get("FailureLocation")
            reason = await _read(model, failure) if failure else None
            if reason is not None:
                raise Problem(
                    502, "model-failed", f"{model.name}: {reason[:500].decode('utf-8', 'replace')}"
                )
            await asyncio.sleep(output.poll_seconds)
    except (BotoCoreError, ClientError) as error:
        raise mapped(model.name, error)[1] from error
    raise Problem(504, "deadline-exceeded", f"{model.name} did not answer before the deadline")


async def _read(model: SageMakerModel, location: str) -> bytes | None:
    parts = urlsplit(location)

    def get(s3: Any) -> bytes | None:
        try:
            data: bytes = s3.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))[
                "Body"
            ].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise
        return data

    found: bytes | None = await model.run(get, "s3")
    return found
