"""S3's notifications from NATS: out of a JetStream stream, or as core NATS hands them out."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from kit.telemetry import logs
from unzip.processing.service import Service
from unzip.settings import UnzipSettings
from unzip.triggers.events import UnknownEvent, created_keys
from unzip.triggers.watcher import Watcher

log = logs.get("unzip.nats")
T = TypeVar("T")
# A request for a message that a restarted server forgot is made again after this long.
_FETCH_SECONDS = 5.0


class Unfit(Exception):  # noqa: N818 - what it is
    """A setting for NATS cannot be used; the text names it, what is wrong and the fix."""


class Subscriber:
    """Reads one subject, whose messages the pods of one queue group share.

    Out of a stream, a message is acknowledged when its archives are closed and kept from the other
    pods till then; what is not closed (somebody else has it, S3 is down) comes again. Without a
    stream the server keeps nothing: keys go to ``watcher``, and the listing finds what was lost.
    """

    def __init__(
        self,
        service: Service,
        watcher: Watcher,
        *,
        ack_seconds: float = 60.0,
        again_seconds: float = 30.0,
        retry_seconds: float = 5.0,
    ) -> None:
        self._service = service
        self._settings = service.settings
        self._watcher = watcher
        self._ack_seconds = ack_seconds
        self._again_seconds = again_seconds
        self._retry_seconds = retry_seconds
        self._pool = ThreadPoolExecutor(self._settings.archives_at_once, "nats")
        self._under_way: set[asyncio.Task[None]] = set()
        self._given_back: list[Msg] = []

    def run(self) -> None:
        """Take messages until the service's Stop; what is under way then is ended or given back."""
        with self._pool:
            asyncio.run(self._run())

    async def _run(self) -> None:
        stopped = asyncio.create_task(asyncio.to_thread(self._service.stop.requested.wait))
        while not stopped.done():
            # The client reconnects by itself for two minutes. Then, and whenever the server rejects
            # it, a new one begins, with certificates and keys as they are by now.
            client, closed = Client(), asyncio.Event()
            try:
                await _unless(stopped, self._connect(client, closed))
                if stopped.done():
                    break
                if self._settings.nats_stream:
                    await self._from_stream(client, stopped)
                else:
                    await self._from_subject(client, closed, stopped)
            except Exception as error:
                log.error("nats failed", error=_text(error))
                await asyncio.wait({stopped}, timeout=self._retry_seconds)
            finally:
                if stopped.done():
                    await self._end()
                # It asserts that it began to connect, which it did not with a file that is unfit,
                # and it writes to a connection that may be gone: nothing of that ends this thread.
                with suppress(AssertionError, Error, OSError):
                    await client.close()

    async def _end(self) -> None:
        """Wait for what is under way, and give back what did not get closed."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        for message in self._given_back:
            with suppress(Error):  # the connection is gone: the message comes again
                await message.nak()

    async def _connect(self, client: Client, closed: asyncio.Event) -> None:
        async def failed(error: Exception) -> None:
            log.warning("nats", error=_text(error))

        async def reconnected() -> None:
            log.info("nats reconnected")

        async def ended() -> None:
            closed.set()

        await client.connect(
            self._settings.nats_url.split(","),
            name=f"unzip {self._settings.pod_name}".rstrip(),
            error_cb=failed,
            reconnected_cb=reconnected,
            closed_cb=ended,
            tls=tls_context(self._settings),
            **credentials(self._settings),
        )

    async def _from_subject(
        self, client: Client, closed: asyncio.Event, stopped: asyncio.Task[bool]
    ) -> None:
        async def offer(message: Msg) -> None:
            for key in self._keys(message) or []:
                if not self._watcher.offer(key):
                    log.warning("no room for an event, the listing will find it", key=key)

        settings = self._settings
        await client.subscribe(settings.nats_subject, settings.nats_queue_group, offer)
        await client.flush()
        log.info("listening", subject=settings.nats_subject, group=settings.nats_queue_group)
        await _unless(stopped, closed.wait())
        if not stopped.done():
            raise ConnectionClosedError

    async def _from_stream(self, client: Client, stopped: asyncio.Task[bool]) -> None:
        settings = self._settings
        context = client.jetstream()
        consumer = ConsumerConfig(
            durable_name=settings.nats_queue_group,
            filter_subject=settings.nats_subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_seconds,
        )
        try:
            # It makes the consumer, or brings one that is there to these settings.
            await context.add_consumer(settings.nats_stream, consumer)
        except NotFoundError:
            raise Unfit(
                f"UNZIP_NATS_STREAM: there is no stream {settings.nats_stream!r}; "
                f"make it with {settings.nats_subject!r} among its subjects, or leave it empty"
            ) from None
        subscription = await context.pull_subscribe_bind(
            settings.nats_queue_group, settings.nats_stream
        )
        log.info("listening", stream=settings.nats_stream, consumer=settings.nats_queue_group)
        # The event itself is asked: the task that waits for it ends a moment later, and in that
        # moment another message could be received.
        while not self._service.stop.requested.is_set():
            # Never more than can be begun together: the rest is for the other pods.
            if len(self._under_way) >= settings.archives_at_once:
                await asyncio.wait({*self._under_way, stopped}, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                messages = await _unless(stopped, subscription.fetch(1, timeout=_FETCH_SECONDS))
            except TimeoutError:
                continue
            for message in messages or []:
                task = asyncio.create_task(self._handle(message))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
        # A request for the next message may be on its way: nobody waits for its answer any more.
        await subscription.unsubscribe()
        await stopped

    async def _handle(self, message: Msg) -> None:
        try:
            keys = self._keys(message)
            if keys is None:
                await message.term()
            elif await self._are_closed(message, keys):
                await message.ack()
            elif self._service.stop.requested.is_set():
                # Not yet: as long as we ask for messages ourselves it might come to us.
                self._given_back.append(message)
            else:
                await message.nak(self._again_seconds)
        except Error as error:
            log.warning("message not answered, it comes again", error=_text(error))

    async def _are_closed(self, message: Msg, keys: list[str]) -> bool:
        """Process the keys; whether nothing of them is left to do."""
        if not keys:  # most messages: every file that is written makes one
            return True
        keeping = asyncio.create_task(self._keep(message))
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, self._service.close_keys, keys
            )
        finally:
            keeping.cancel()

    async def _keep(self, message: Msg) -> None:
        with suppress(Error):  # the connection is gone: the message comes again
            while True:
                await asyncio.sleep(self._ack_seconds / 3)
                await message.in_progress()

    def _keys(self, message: Msg) -> list[str] | None:
        """Keys that a message tells of and that are ours; None if nobody understands it."""
        try:
            keys = created_keys(message.data, bucket=self._settings.bucket)
        except UnknownEvent as error:
            log.error(
                "unknown message",
                subject=message.subject,
                size=len(message.data),
                error=str(error),
            )
            return None
        return [key for key in keys if self._service.wanted(key)]


async def _unless(stopped: asyncio.Task[bool], work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``, or None when ``stopped`` ends before it, which cancels it."""
    task = asyncio.create_task(work)
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        # The client keeps some cancellations to itself.
        await asyncio.wait({task}, timeout=1)
        return None
    if task.cancelled():  # how the client ends what waits when its connection is closed
        raise ConnectionClosedError
    return task.result()


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def tls_context(settings: UnzipSettings) -> ssl.SSLContext | None:
    """TLS by the files in the settings; None leaves it to the URL and the system's authorities.

    Raises ``Unfit`` for a file that is not there or is not what it should be.
    """
    ca, certificate = settings.nats_ca_file, settings.nats_certificate_file
    if not (ca or certificate):
        return None
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise Unfit(f"UNZIP_NATS_CA_FILE: {ca!r} holds no authority in PEM: {error}") from error
    if certificate:
        try:
            context.load_cert_chain(certificate, settings.nats_key_file or None)
        except OSError as error:
            raise Unfit(
                f"UNZIP_NATS_CERTIFICATE_FILE: {certificate!r} and UNZIP_NATS_KEY_FILE: "
                f"{settings.nats_key_file!r} are no certificate and its key in PEM: {error}"
            ) from error
    return context


def credentials(settings: UnzipSettings) -> dict[str, Any]:
    """What the client's ``connect`` is given to tell who we are; empty: nothing.

    Raises ``Unfit`` for a credentials file that is not there or is none.
    """
    if settings.nats_credentials_file:
        token, key = _credentials_file(settings.nats_credentials_file)
        return {
            "user_jwt_cb": token.encode,
            "signature_cb": lambda nonce: base64.b64encode(key.sign(nonce.encode())),
        }
    password = settings.nats_password.get_secret_value()
    if settings.nats_user:
        return {"user": settings.nats_user, "password": password}
    return {"token": password} if password else {}


def _credentials_file(path: str) -> tuple[str, Ed25519PrivateKey]:
    """The token and the key of a credentials file as `nsc` writes it.

    The nkeys library does the same and comes without a wheel.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise Unfit(f"UNZIP_NATS_CREDENTIALS_FILE: {error}") from error
    token = re.search(r"^-+BEGIN NATS USER JWT-+\s+(\S+)", text, re.M)
    seed = re.search(r"^-+BEGIN USER NKEY SEED-+\s+(SU[A-Z2-7]{56})\s", text, re.M)
    if token is None or seed is None:
        raise Unfit(
            f"UNZIP_NATS_CREDENTIALS_FILE: {path!r} lacks a user's JWT or seed; "
            "write it with `nsc generate creds`"
        )
    # Two bytes of prefix, 32 of key, two of checksum, in base 32 without its padding.
    return token[1], Ed25519PrivateKey.from_private_bytes(base64.b32decode(seed[1] + "=" * 6)[2:34])
