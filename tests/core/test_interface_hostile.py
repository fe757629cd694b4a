"""What must hold when thousands come and go, when a middleware dresses up as the server, and when workers die."""

import asyncio
import functools
import gc
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect

from asgi_wire import FutureWire, Site, SteppedWire, WaitingBackend, Wire, serving, websocket_scope
from channels_core import Group, Message
from channels_core.interface.inbox import Inbox
from channels_core.worker import Worker
from channels_layer_memory import MemoryBackend
from workbench import Table


def accept(message: Message) -> None:
    Group("all", channel_layer=message.channel_layer).add(message.reply_channel or "")
    reply(message, {"accept": True})


def echo(message: Message) -> None:
    reply(message, {"text": message["text"]})


def nothing(message: Message) -> None:
    """Takes note of nothing."""


def page(message: Message) -> None:
    reply(message, {"status": 200, "content": message["path"].encode()})


def reply(message: Message, content: dict[str, Any]) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send(content)


ROUTES = {
    "websocket.connect": accept,
    "websocket.receive": echo,
    "websocket.disconnect": nothing,
    "http.request": page,
}


def inbox_of(site: Site) -> Inbox:
    (inbox,) = site.application._inboxes.values()
    return inbox


async def settled(site: Site) -> None:
    """Wait until every connection has said goodbye and the workers have heard it."""
    async with asyncio.timeout(20):
        while not inbox_of(site).is_empty or any(queue.entries for queue in site.backend._queues.values()):  # type: ignore[attr-defined]  # the memory layer's
            await asyncio.sleep(0.01)


def objects() -> Counter[str]:
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects())


def resident() -> int:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // 2**20


async def visit(site: Site, number: int) -> None:
    """Come and go in one of several ways."""
    way = number % 5
    if way == 0:
        request = site.request(f"/{number}")
        await request.next()
        assert (await request.next())["body"] == b"/%d" % number
        await request.ended()
        return
    wire = site.socket(f"/{number}")
    if way == 1:
        wire.push(type="websocket.disconnect", code=1006)
    else:
        assert (await wire.next())["type"] == "websocket.accept"
        wire.push(type="websocket.receive", text=str(number))
        if way == 2:
            assert (await wire.next())["text"] == str(number)
        if way == 3:
            assert wire.task is not None
            wire.task.cancel()
            await asyncio.wait({wire.task})
            return
        wire.push(type="websocket.disconnect", code=1001)
    await wire.ended()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("wire", [SteppedWire, Wire], ids=["stepped", "task"])
async def test_ten_thousand_connections_leave_nothing_behind(wire: type[Wire]) -> None:
    async with serving(wire=wire, has_worker=False) as site:
        site.layer.router = Table(ROUTES)
        worker = Worker(site.layer)
        worker.start()
        try:
            for number in range(0, 1000, 50):
                await asyncio.gather(*(visit(site, number + one) for one in range(50)))
            await settled(site)
            before, size = objects(), resident()
            for number in range(0, 10_000, 50):
                await asyncio.gather(*(visit(site, number + one) for one in range(50)))
            await settled(site)
            more = objects() - before
            assert more.total() < 500, more.most_common(5)
            assert resident() - size < 16
            assert await site.layer.agroup_count("all") == 0
            assert site.backend.groups() == {}
            assert site.counters.credit_lost == 0
        finally:
            assert worker.stop(5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_thousand_real_sockets_leave_nothing_behind() -> None:
    async with serving(has_worker=False) as site:
        site.layer.router = Table(ROUTES)
        worker = Worker(site.layer)
        worker.start()
        config = uvicorn.Config(site.application, port=0, log_level="warning", ws="websockets-sansio")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def talk(number: int) -> None:
            async with connect(f"ws://127.0.0.1:{port}/{number}", proxy=None, compression=None) as client:
                await client.send(str(number))
                assert await client.recv() == str(number)
                if number % 3 == 0:
                    client.transport.abort()

        try:
            for number in range(0, 200, 50):
                await asyncio.gather(*(talk(number + one) for one in range(50)))
            await settled(site)
            before, size = objects(), resident()
            for number in range(0, 1000, 50):
                await asyncio.gather(*(talk(number + one) for one in range(50)))
            await settled(site)
            more = objects() - before
            assert more.total() < 500, more.most_common(5)
            assert resident() - size < 8
            assert site.backend.groups() == {}
        finally:
            server.should_exit = True
            await running
            assert worker.stop(5)


@pytest.mark.parametrize("backend", [MemoryBackend, WaitingBackend], ids=["memory", "waiting"])
@pytest.mark.parametrize("wire", [SteppedWire, FutureWire, Wire], ids=["stepped", "future", "task"])
async def test_disconnect_follows_connect_whenever_a_connection_ends(
    wire: type[Wire], backend: type[MemoryBackend]
) -> None:
    """The server gives up, or the client leaves, at every turn of the loop: accepted, refused, slow, or silent."""
    heard: dict[str, list[tuple[str, int]]] = {}

    def note(message: Message) -> None:
        assert message.reply_channel is not None
        heard.setdefault(message.reply_channel.name, []).append((str(message.channel), message["order"]))

    def connect_as_asked(message: Message) -> None:
        note(message)
        answers: dict[str, dict[str, Any]] = {
            "/refused": {"accept": False},
            "/farewell": {"text": "bye", "close": 4000},
            "/silent": {},
        }
        reply(message, answers.get(message["path"], {"accept": True}))

    def receive(message: Message) -> None:
        note(message)
        reply(message, {"text": message["text"]})

    routes = {
        "websocket.connect": connect_as_asked,
        "websocket.receive": receive,
        "websocket.disconnect": note,
    }
    options = {"websocket_handshake_timeout": 0.2, "credit_timeout": 5.0 if backend is MemoryBackend else 1.0}
    async with serving(wire=wire, backend=backend(process_lease=60), has_worker=False, **options) as site:
        site.layer.router = Table(routes)
        worker = Worker(site.layer)
        worker.start()
        await site.application._inbox().ready(5)
        endings = [
            lambda one: one.task.cancel(),
            lambda one: one.push(type="websocket.disconnect", code=1006),
        ]
        try:
            for path in ("/accepted", "/refused", "/farewell", "/silent"):
                wires = []
                for end in endings:
                    for turns in range(40):
                        one = site.socket(path)
                        one.push(type="websocket.receive", text="1")
                        one.push(type="websocket.receive", text="2")
                        if turns % 3 == 2:
                            one.gate.clear()
                        for _ in range(turns):
                            await asyncio.sleep(0)
                        end(one)
                        wires.append(one)
                await asyncio.sleep(0.05)
                for one in wires:
                    one.gate.set()
                await asyncio.wait({one.task for one in wires if one.task is not None}, timeout=10)
                await settled(site)
                for one in wires:
                    assert one.task is not None
                    assert one.task.done()
                    assert one.task.cancelled() or one.task.exception() is None
        finally:
            assert worker.stop(5)
        for events in heard.values():
            kinds, orders = zip(*events, strict=True)
            assert kinds.count("websocket.disconnect") == 1
            assert kinds[-1] == "websocket.disconnect"
            if backend is MemoryBackend:
                assert orders == tuple(range(len(events)))
            else:  # what was cancelled on its way to the layer is taken for sent, as nobody can know
                assert list(orders) == sorted(set(orders))
            assert kinds[0] == "websocket.connect" or (backend is not MemoryBackend and len(kinds) == 1)
        if backend is MemoryBackend:
            assert site.counters.credit_lost == 0


@pytest.mark.parametrize("ending", ["cancelled", "longer than announced", "over the limit", "left"])
async def test_consumer_is_told_at_once_when_the_rest_of_a_body_will_not_come(ending: str) -> None:
    """Otherwise each broken upload holds a worker's thread until the body's timeout."""
    headers = [(b"content-length", b"100000")] if ending == "longer than announced" else []
    async with serving(max_body_size=200_000) as site:
        parts = [{"type": "http.request", "body": b"x" * 90_000, "more_body": True}]
        request = site.request("/", *parts, headers=headers)
        channel = (await site.taken("http.request")).content["body_channel"]
        if ending == "cancelled":
            assert request.task is not None
            request.task.cancel()
        elif ending == "left":
            request.push(type="http.disconnect")
        else:
            request.push(type="http.request", body=b"x" * (30_000 if headers else 150_000), more_body=True)
            status = 400 if headers else 413
            assert (await request.next())["status"] == status
        while True:
            chunk = (await site.taken(channel)).content
            if chunk.get("closed"):
                break
            assert chunk["more_content"]
        assert (await site.taken("http.disconnect")).content["path"] == "/"
        assert request.task is not None
        await asyncio.wait({request.task})


async def test_send_of_a_middleware_under_the_servers_name_is_not_driven_by_hand() -> None:
    """Its time limit would fall on the task that receives for everybody."""
    async with serving() as site:
        neighbour, neighbour_channel = await site.open("/neighbour")

        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            @functools.wraps(send)
            async def limited(event: Any) -> None:
                async with asyncio.timeout(0.05):
                    await send(event)

            await site.application(scope, receive, limited)

        wire = SteppedWire(middleware, websocket_scope()).start({"type": "websocket.connect"})
        connect_message = await site.taken("websocket.connect")
        site.reply(connect_message, {"accept": True})
        assert (await wire.next())["type"] == "websocket.accept"
        wire.gate.clear()
        await site.send(connect_message.content["reply_channel"], {"text": "to a slow client"})
        await asyncio.sleep(0.2)  # longer than the limit
        await site.send(neighbour_channel, {"text": "hello"})
        assert await neighbour.next() == {"type": "websocket.send", "text": "hello"}
        wire.gate.set()
