"""S3's notifications from SQS."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from kit.telemetry import logs
from unzip.processing.service import Service
from unzip.triggers.events import UnknownEvent, created_keys

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logs.get("unzip.watch")


class SqsQueue:
    """Reads SQS. A message is deleted when its archives are closed, and kept invisible till then.

    What is not closed (somebody else has it, S3 is down) comes back by itself.
    """

    def __init__(
        self, client: SQSClient, url: str, service: Service, *, visibility_seconds: int = 120
    ) -> None:
        self._client = client
        self._url = url
        self._service = service
        self._visibility = visibility_seconds

    def poll(self, *, wait_seconds: int = 20) -> int:
        """Receive and process one batch; the number of messages received."""
        answer = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=min(10, self._service.settings.archives_at_once),
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self._visibility,
        )
        messages = answer.get("Messages", [])
        if not messages:
            return 0
        with ThreadPoolExecutor(len(messages), "sqs") as pool:
            list(pool.map(self._handle, messages))
        return len(messages)

    def _handle(self, message: Any) -> None:
        receipt = message["ReceiptHandle"]
        try:
            keys = created_keys(message["Body"], bucket=self._service.settings.bucket)
        except UnknownEvent as error:
            # The queue's own redrive policy takes it away after its number of receipts.
            log.error("unknown message", id=message["MessageId"], error=str(error))
            return
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(receipt, ended), daemon=True)
        keeper.start()
        try:
            closed = self._service.close_keys(keys)
        finally:
            ended.set()
            keeper.join()
        if closed:
            self._client.delete_message(QueueUrl=self._url, ReceiptHandle=receipt)

    def _keep(self, receipt: str, ended: threading.Event) -> None:
        while not ended.wait(self._visibility / 3):
            self._client.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=self._visibility
            )

    def run(self) -> None:
        """Poll until asked to stop."""
        stop = self._service.stop.requested
        while not stop.is_set():
            try:
                self.poll()
            except Exception as error:
                log.error("queue failed", error=str(error))
                stop.wait(5)
