"""WebSockets over real sockets, the same on uvicorn, hypercorn, daphne and granian.

Where a server cannot do what the protocol allows, the difference is written down here.
"""

import asyncio
import base64
import os
import socket
import sys
import time
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

TELLS_CODES = {"uvicorn", "daphne", "granian"}
"""Servers that pass on the code a client closed with; hypercorn always says 1006."""
TELLS_LOSS = {"uvicorn", "daphne", "hypercorn"}
"""Servers that tell a lost connection from a closed one; granian says 1005."""
ANSWERS_HANDSHAKES = {"uvicorn", "hypercorn", "granian"}
"""Servers that can refuse a handshake with a status other than 403."""


def path() -> str:
    return f"/{uuid4().hex}"


async def opened(server: Any, where: str, **options: Any) -> ClientConnection:
    return await connect(server.ws + where, **{"max_size": None, "compression": None, **options})


async def test_echo_in_order(server: Any) -> None:
    async with await opened(server, path()) as ws:
        for text in ("a", "", "zwölf 🐎", "x" * 60_000):
            await ws.send(text)
            if text:
                assert await ws.recv() == text
        await ws.send(b"\x00\xff")
        assert await ws.recv() == b"\x00\xff"
        await ws.send("order")
        assert await ws.recv() == "6"


async def test_burst_of_frames_stays_in_order(server: Any) -> None:
    """Three worker threads, one connection: the window keeps them from overtaking."""
    async with await opened(server, path()) as ws:
        for number in range(200):
            await ws.send(str(number))
        assert [await ws.recv() for _ in range(200)] == [str(number) for number in range(200)]


async def test_fifty_connections_at_once_are_not_mixed_up(server: Any) -> None:
    async def converse(number: int) -> None:
        async with await opened(server, path()) as ws:
            for turn in range(20):
                await ws.send(f"{number} {turn}")
                assert await ws.recv() == f"{number} {turn}"

    await asyncio.gather(*(converse(number) for number in range(50)))


async def test_broadcast_reaches_everybody(server: Any) -> None:
    sockets = [await opened(server, path()) for _ in range(30)]
    word = uuid4().hex
    await sockets[0].send(f"all {word}")
    assert [await ws.recv() for ws in sockets] == [word] * 30
    for ws in sockets:
        await ws.close()


async def test_headers_reach_the_consumer(server: Any) -> None:
    where = path()
    async with await opened(
        server, where, additional_headers=[("X-One", "1"), ("X-One", "2"), ("X_Two", "spoofed")]
    ):
        ((_, headers),) = await server.wait_for(
            "connect", lambda seen: [one for one in seen if one[0] == where]
        )
    names = [name for name, _ in headers]
    assert "x_two" not in names
    assert [value for name, value in headers if name == "x-one"] in (["1", "2"], ["1,2"], ["1, 2"], ["2"])


@pytest.mark.parametrize(("where", "frames"), [("/text", ["welcome"]), ("/farewell", ["and good bye"])])
async def test_b111_b112_a_frame_accepts(server: Any, where: str, frames: list[str]) -> None:
    ws = await opened(server, where)
    assert [await ws.recv() for _ in frames] == frames
    if where == "/farewell":
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == 4002
    await ws.close()


async def refused(server: Any, where: str, **options: Any) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as raised:
        await opened(server, where, **options)
    return raised.value.response.status_code, raised.value.response.headers


async def test_b109_denied(server: Any) -> None:
    before = len([one for one in server.events("disconnect") if one[0] == "/deny"])
    assert (await refused(server, "/deny"))[0] == 403
    seen = await server.wait_for(
        "disconnect", lambda seen: [one for one in seen if one[0] == "/deny"][before:]
    )
    assert seen == [["/deny", 1006, 1]]


async def test_b120_origin(server: Any) -> None:
    where = path()
    assert (await refused(server, where, origin="http://evil.com"))[0] == 403
    assert (await refused(server, where, origin="null"))[0] == 403
    async with await opened(server, where, origin="http://example.com") as ws:
        await ws.send("in")
        assert await ws.recv() == "in"
    assert len([one for one in server.events("connect") if one[0] == where]) == 1


async def test_b127_nobody_answers(server: Any) -> None:
    before = len([one for one in server.events("disconnect") if one[0] == "/silent"])
    status, headers = await refused(server, "/silent")
    if server.name in ANSWERS_HANDSHAKES:
        assert (status, headers["retry-after"]) == (503, "5")
    else:
        assert status == 403
    assert await server.wait_for(
        "disconnect", lambda seen: [one for one in seen if one[0] == "/silent"][before:]
    )


async def test_b119_subprotocol(server: Any) -> None:
    async with await opened(server, path(), subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v1"
    async with await opened(server, path(), subprotocols=["other"]) as ws:
        assert ws.subprotocol is None


@pytest.mark.parametrize(("close", "code"), [("true", 1000), ("4001", 4001), ("1001", 1011)])
async def test_b116_to_b118_closed_by_the_consumer(server: Any, close: str, code: int) -> None:
    where = path()
    ws = await opened(server, where)
    await ws.send(f"close {close}")
    assert await ws.recv() == "bye"
    with pytest.raises(ConnectionClosed):
        await ws.recv()
    if server.name == "daphne" and code == 1011:
        assert ws.close_code == 4011  # it sends no code that belongs to the protocol
    else:
        assert ws.close_code == code
    assert await server.wait_for("disconnect", lambda seen: [one for one in seen if one[0] == where]) == [
        [where, code, 2]
    ]


async def test_b107_closed_by_the_client(server: Any) -> None:
    where = path()
    ws = await opened(server, where)
    await ws.close(4005, "done")
    ((_, code, order),) = await server.wait_for(
        "disconnect", lambda seen: [one for one in seen if one[0] == where]
    )
    assert order == 1
    assert code == (4005 if server.name in TELLS_CODES else 1006)


async def test_b108_lost_connection(server: Any) -> None:
    where = path()
    ws = await opened(server, where)
    ws.transport.abort()
    ((_, code, _),) = await server.wait_for(
        "disconnect", lambda seen: [one for one in seen if one[0] == where]
    )
    assert code == (1006 if server.name in TELLS_LOSS else 1005)


async def test_frame_over_the_limit_is_1009(server: Any) -> None:
    where = path()
    ws = await opened(server, where)
    await ws.send("x" * (2**16 + 1))
    with pytest.raises(ConnectionClosed):
        await ws.recv()
    assert ws.close_code == (4009 if server.name == "daphne" else 1009)
    assert await server.wait_for("disconnect", lambda seen: [one for one in seen if one[0] == where]) == [
        [where, 1009, 1]
    ]


class NeverReads:
    """A client that opens a WebSocket, asks for a lot, and takes none of it."""

    def __init__(self, port: int, where: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {where} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert self.socket.recv(12) == b"HTTP/1.1 101"

    def send(self, text: str) -> None:
        payload = text.encode()
        self.socket.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)


async def test_b130_slow_client_is_cut_and_hurts_nobody(server: Any) -> None:
    where = path()
    slow = NeverReads(server.port, where)
    slow.send("flood 60")
    async with await opened(server, path()) as ws:
        for number in range(50):
            await ws.send(str(number))
            assert await ws.recv() == str(number)
    await server.wait_for("flooded", bool)
    if (
        server.name != "daphne"
    ):  # which takes everything into its own buffers and never says that a client is slow
        seen = await server.wait_for("disconnect", lambda seen: [one for one in seen if one[0] == where])
        assert seen == [[where, 1013, 2]]
    slow.socket.close()
    assert await server.wait_for("disconnect", lambda seen: [one for one in seen if one[0] == where])


async def test_many_sockets_come_and_go(server: Any) -> None:
    where = path()

    async def visit() -> None:
        async with await opened(server, where) as ws:
            await ws.send("x")
            await ws.recv()

    for _ in range(5):
        await asyncio.gather(*(visit() for _ in range(20)))
    await server.wait_for("disconnect", lambda seen: len([one for one in seen if one[0] == where]) == 100)


async def test_shutdown_ends_sockets_within_the_deadline(own_server: Any) -> None:
    """Only uvicorn says 1012 by itself. From Python 3.12 on, hypercorn waits until its clients have left."""
    sockets = [await opened(own_server, path()) for _ in range(5)]
    await sockets[0].send("see you later")
    assert await sockets[0].recv() == "see you later"
    started = time.monotonic()
    stopping = asyncio.create_task(asyncio.to_thread(own_server.terminate))
    if own_server.name == "hypercorn" and sys.version_info >= (3, 12):
        for ws in sockets:
            await ws.close()
    assert await stopping in (0, -15)
    assert time.monotonic() - started < 10
    for ws in sockets:
        with pytest.raises((ConnectionClosed, OSError)):
            await ws.recv()
        if own_server.name == "uvicorn":
            assert ws.close_code == 1012
    assert "channels_core" not in own_server.output


async def test_nothing_was_logged_about_sockets_that_should_not_be(server: Any) -> None:
    assert "this is a bug" not in server.output
    assert (
        "channels_core" not in server.output
    )  # servers log failures of their own; none of ours is among them
