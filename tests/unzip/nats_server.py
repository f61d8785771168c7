"""A real NATS server on a free port."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.api import ConsumerInfo, RetentionPolicy

from tests.programs import require
from tests.waits import SECONDS, until

T = TypeVar("T")
STREAM, SUBJECT, GROUP = "notifications", "archives", "unzip"


@dataclass(slots=True)
class NatsServer:
    """``config`` is the server's own; ``options`` are what our own clients connect with."""

    folder: Path
    port: int = -1  # any, and after a restart the same one
    config: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    scheme: str = "nats"
    jetstream: bool = True
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        (self.folder / "nats.conf").write_text(self.config)
        log = self.folder / "nats.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    require("nats-server"),
                    *("--addr", "127.0.0.1", "--port", str(self.port)),
                    *("--config", str(self.folder / "nats.conf")),
                    *(("--jetstream", "--store_dir", str(self.folder)) if self.jetstream else ()),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def ready() -> bool:
            assert self._process is not None and self._process.poll() is None, log.read_text()
            return b"Server is ready" in log.read_bytes()

        until(ready, "nats-server")  # it listens to nobody before JetStream is up
        listens = re.search(r"client connections on 127.0.0.1:(\d+)", log.read_text())
        assert listens, log.read_text()
        self.port = int(listens[1])

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        self._process.wait(SECONDS)
        self._process = None
        (self.folder / "nats.log").unlink()

    def reload(self, config: str) -> None:
        """Give the running server another configuration."""
        assert self._process is not None
        log = self.folder / "nats.log"
        before = log.read_bytes().count(b"Reloaded server configuration")
        (self.folder / "nats.conf").write_text(config)
        self._process.send_signal(signal.SIGHUP)
        reloaded = b"Reloaded server configuration"
        until(lambda: log.read_bytes().count(reloaded) > before, "the new configuration")

    def ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """Connect, have something done and go again."""

        async def ask() -> T:
            client = await nats.connect(self.url, **self.options)
            try:
                answer = await question(client)
                await client.flush()
                return answer
            finally:
                await client.close()

        return asyncio.run(ask())

    def publish(self, *bodies: bytes) -> None:
        """Publish without an acknowledgement, as versitygw does."""

        async def publish(client: Client) -> None:
            for body in bodies:
                await client.publish(SUBJECT, body)

        self.ask(publish)

    def add_stream(self, *subjects: str) -> None:
        """Make the stream as docs/unzip/notifications.md does."""

        async def add(client: Client) -> None:
            await client.jetstream().add_stream(
                name=STREAM,
                subjects=list(subjects or [SUBJECT]),
                retention=RetentionPolicy.WORK_QUEUE,
            )

        self.ask(add)

    def consumer(self) -> ConsumerInfo:
        async def consumer(client: Client) -> ConsumerInfo:
            info: ConsumerInfo = await client.jetstream().consumer_info(STREAM, GROUP)
            return info

        return self.ask(consumer)

    def deliveries(self) -> int:
        """How often a message of the stream was handed out, repetitions counted."""
        delivered = self.consumer().delivered
        return delivered.consumer_seq if delivered else 0

    def is_done(self) -> bool:
        """Whether every message of the stream has been delivered and acknowledged."""

        async def is_done(client: Client) -> bool:
            context = client.jetstream()
            last = (await context.stream_info(STREAM)).state.last_seq
            info = await context.consumer_info(STREAM, GROUP)
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
            return bool(last) and floor == last and not info.num_ack_pending

        return self.ask(is_done)

    def has_listeners(self) -> bool:
        """Whether core NATS has anybody to hand the next message to."""

        async def has_listeners(client: Client) -> bool:
            # That there is nobody the server says at once, as far as the machine lets it.
            try:
                await client.request(SUBJECT, b'{"Event": "s3:TestEvent"}', timeout=1.0)
            except NoRespondersError:
                return False
            except TimeoutError:
                pass  # somebody got it and does not answer
            return True

        return self.ask(has_listeners)


@contextmanager
def serve_nats(folder: Path, **fields: Any) -> Iterator[NatsServer]:
    """Run the server while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    server = NatsServer(folder, **fields)
    server.start()
    try:
        yield server
    finally:
        server.stop()
