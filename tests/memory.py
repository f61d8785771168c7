"""Pictures that are small as files, large bodies, and the most memory a process has taken."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image


def picture(size: int, format: str, mode: str = "RGBA", **how: Any) -> bytes:
    """A square picture of one colour."""
    file = io.BytesIO()
    Image.new(mode, (size, size)).save(file, format, **how)
    return file.getvalue()


def peak(process: int) -> int:
    """The most bytes that a running process has had in memory so far."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def together(
    url: str, path: str, headers: dict[str, str], size: int, count: int
) -> list[str]:
    """Heads and bodies of the answers to ``count`` bodies of zeros that are all there at once.

    Each is sent but for its last byte, or until it is answered; then the last bytes are sent.
    """
    address = urlsplit(url)
    lines = {"host": "x", "connection": "close", "content-length": str(size)} | headers
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    sent, last = 0, asyncio.Event()

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + b"\r\n")
        for left in range(size - 1, 0, -(1 << 18)):
            writer.write(bytes(min(left, 1 << 18)))
            await writer.drain()

    async def one() -> str:
        nonlocal sent
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        answer = asyncio.create_task(reader.read())
        sending = asyncio.create_task(send(writer))
        await asyncio.wait((answer, sending), return_when=asyncio.FIRST_COMPLETED)
        sent += 1
        if sent == count:
            last.set()
        await last.wait()
        sending.cancel()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await sending
        said = b""
        with contextlib.suppress(ConnectionError):  # reset by a server that has answered
            writer.write(b"\0")
            said = await answer
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return said.decode("latin-1")

    return await asyncio.gather(*(one() for _ in range(count)))
