"""kit.http.server.listeners: a burst of connections is taken in few turns of the loop."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from kit.http.server import LISTENERS, listeners

BURST = 640


async def turns_until_accepted(sockets: list[socket.socket]) -> int:
    """How often the loop goes round until a burst of connections is taken."""
    loop = asyncio.get_running_loop()
    taken: list[asyncio.BaseTransport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.append(transport)

    servers = [await loop.create_server(Protocol, sock=each, backlog=2048) for each in sockets]
    clients = []
    for _ in range(BURST):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(sockets[0].getsockname())
        clients.append(client)
    turns = 0
    while len(taken) < BURST and turns < 10 * BURST:
        turns += 1
        await asyncio.sleep(0)
    for end in (*clients, *taken, *servers):
        end.close()
    return turns if len(taken) == BURST else -1


def test_a_burst_is_taken_in_few_turns() -> None:
    """The kernel spreads unevenly; one socket alone needs a turn for each connection."""
    sockets = listeners("127.0.0.1", 0)
    assert len(sockets) == LISTENERS
    assert len({each.getsockname() for each in sockets}) == 1
    assert 0 < uvloop.run(turns_until_accepted(sockets)) < BURST / 4


def test_one_socket_is_what_it_is_worse_than() -> None:
    """The reason for the others: when uvloop takes more by itself they can go."""
    alone = listeners("127.0.0.1", 0, count=1)
    assert uvloop.run(turns_until_accepted(alone)) >= BURST


def test_a_port_that_is_taken_is_refused_and_named() -> None:
    """Also where it is shared: two servers must not split their callers by mistake."""
    first = listeners("127.0.0.1", 0)
    first[0].listen()
    port = first[0].getsockname()[1]
    with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1 port {port}"):
        listeners("127.0.0.1", port)
    for each in first:
        each.close()


def test_ipv6() -> None:
    try:
        sockets = listeners("::1", 0, count=2)
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert {each.family for each in sockets} == {socket.AF_INET6}
    for each in sockets:
        each.close()
