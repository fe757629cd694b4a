"""Frames that find no room are sent in the order in which they came; a connection's own never change places."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from asgi_wire import PATIENCE, FlakyBackend, Site, WaitingBackend, Wire, serving
from channels_core.layers import Delivery, Outcome, Send
from channels_layer_memory import MemoryBackend

RECEIVE = "websocket.receive"
BACKENDS = pytest.mark.parametrize("backend", [MemoryBackend, WaitingBackend])
COUNT = 40


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def say_one_after_another(site: Site, sockets: Sequence[Wire]) -> None:
    """Each socket's frame is refused before the next one's is sent."""
    for number, socket in enumerate(sockets):
        refused = site.counters.full
        socket.push(type="websocket.receive", text=str(number))
        await until(lambda refused=refused: site.counters.full > refused)


def fill(backend: MemoryBackend, count: int) -> None:
    for _ in range(count):
        assert backend.send_one(Send(RECEIVE, {"text": "in the way"}, {}, 20)) is Outcome.SENT


@BACKENDS
async def test_who_waits_longest_is_served_first_and_newcomers_wait_behind(
    backend: type[MemoryBackend],
) -> None:
    full = backend(channel_capacity={RECEIVE: 2}, process_lease=60)
    async with serving(backend=full) as site:
        sockets = [(await site.open(f"/{number}"))[0] for number in range(COUNT)]
        fill(full, 2)
        await say_one_after_another(site, sockets[: COUNT // 2])
        came: list[str] = []
        for number in range(COUNT + 2):
            frame = await site.taken(RECEIVE)
            came.append(frame.content["text"])
            if number < COUNT // 2:  # while there is room now and then, others want it too
                sockets[COUNT // 2 + number].push(type="websocket.receive", text=str(COUNT // 2 + number))
                await asyncio.sleep(0)
            if "reply_channel" in frame.content:
                site.reply(frame)
        assert came == ["in the way"] * 2 + [str(number) for number in range(COUNT)]
        assert site.counters.slow_closed == 0
        inbox = site.application._inbox()
        await until(lambda: not inbox.lines)


async def test_a_full_channel_is_asked_by_the_first_in_line_alone() -> None:
    backend = FlakyBackend(channel_capacity={RECEIVE: 1}, process_lease=60)
    async with serving(backend=backend) as site:
        sockets = [(await site.open(f"/{number}"))[0] for number in range(COUNT)]
        fill(backend, 1)
        await say_one_after_another(site, sockets)
        before = site.counters.full
        await asyncio.sleep(0.5)
        assert site.counters.full - before <= 25  # not so often for each of them
        await site.taken(RECEIVE)
        for number in range(COUNT):
            frame = await site.taken(RECEIVE)
            assert frame.content["text"] == str(number)
            site.reply(frame)


@BACKENDS
async def test_whose_time_is_up_is_closed_and_whoever_left_is_passed_over(
    backend: type[MemoryBackend],
) -> None:
    full = backend(channel_capacity={RECEIVE: 1}, process_lease=60)
    async with serving(backend=full, websocket_send_timeout=0.6) as site:
        first, second, third = [(await site.open(f"/{number}"))[0] for number in range(3)]
        fill(full, 1)
        await say_one_after_another(site, [first, second])
        assert await first.next() == {"type": "websocket.close", "code": 1013}
        assert await second.next() == {"type": "websocket.close", "code": 1013}
        await site.taken(RECEIVE)
        third.push(type="websocket.receive", text="there is room")
        assert (await site.taken(RECEIVE)).content["text"] == "there is room"
        assert site.counters.slow_closed == 2


@BACKENDS
async def test_a_refused_frame_is_not_taken_for_lost_while_it_waits(backend: type[MemoryBackend]) -> None:
    full = backend(channel_capacity={RECEIVE: 1}, process_lease=60)
    async with serving(backend=full, credit_timeout=0.2) as site:
        socket, _ = await site.open()
        fill(full, 1)
        socket.push(type="websocket.receive", text="a")
        socket.push(type="websocket.receive", text="b")
        await asyncio.sleep(0.8)
        await site.taken(RECEIVE)
        first = await site.taken(RECEIVE)
        assert first.content["text"] == "a"
        assert await site.nothing_on(RECEIVE)  # b waits for a's credit
        site.reply(first)
        assert (await site.taken(RECEIVE)).content["text"] == "b"
        assert site.counters.credit_lost == 0


async def test_no_credit_is_taken_for_lost_while_there_is_no_worker() -> None:
    backend = MemoryBackend(process_lease=0.6)
    async with serving(backend=backend, has_worker=False, credit_timeout=0.5, worker_grace=60) as site:
        socket, _ = await site.open()
        inbox = site.application._inbox()
        await until(lambda: inbox.workers.is_absent)
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        first = await site.taken(RECEIVE)
        await asyncio.sleep(1.0)
        assert (await site.nothing_on(RECEIVE), site.counters.credit_lost) == (True, 0)
        backend.open_process("worker")
        await inbox.workers.look()
        assert not inbox.stands_still
        site.reply(first)
        assert (await site.taken(RECEIVE)).content["text"] == "b"


async def test_no_credit_is_taken_for_lost_while_the_engine_is_away() -> None:
    backend = FlakyBackend(process_lease=60)
    async with serving(backend=backend, credit_timeout=1.0) as site:
        socket, _ = await site.open()
        for text in "ab":
            socket.push(type="websocket.receive", text=text)
        first = await site.taken(RECEIVE)
        inbox = site.application._inbox()
        backend.away()
        await until(lambda: inbox.outage.is_on)
        await asyncio.sleep(1.5)
        backend.back()
        await site.open()
        assert not inbox.stands_still
        assert (await site.nothing_on(RECEIVE), site.counters.credit_lost) == (True, 0)
        site.reply(first)
        assert (await site.taken(RECEIVE)).content["text"] == "b"


async def test_waiting_sends_end_with_the_server() -> None:
    backend = MemoryBackend(channel_capacity={RECEIVE: 1}, process_lease=60)
    async with serving(backend=backend) as site:
        sockets = [(await site.open(f"/{number}"))[0] for number in range(3)]
        fill(backend, 1)
        await say_one_after_another(site, sockets)
    for socket in sockets:
        assert (await socket.next())["code"] == 1012
        await socket.ended()


class Uncertain(FlakyBackend):
    """Says of the next batch what it is told to."""

    says: Sequence[Outcome] = ()
    batches: list[list[str]]

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        self.batches.append([send.content["text"] for send in sends])
        if self.says:
            said, self.says = self.says, ()
            return list(said)[: len(sends)]
        return super().send_batch(sends)

    def send_one(self, send: Send) -> Outcome:
        return MemoryBackend.send_batch(self, (send,))[0]


@pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
async def test_an_uncertain_send_keeps_its_place_where_it_may_be_repeated(delivery: Any) -> None:
    backend = Uncertain(
        channel_capacity={RECEIVE: 1}, process_lease=60, delivery={RECEIVE: delivery}, lease=60
    )
    backend.batches = []
    async with serving(backend=backend) as site:
        sockets = [(await site.open(f"/{number}"))[0] for number in range(2)]
        fill(backend, 1)
        await say_one_after_another(site, sockets)
        backend.says = [Outcome.UNCERTAIN]
        await until(lambda: not backend.says)
        taken: list[Delivery] = [await site.taken(RECEIVE)]
        expected = "1" if delivery == "at-most-once" else "0"
        taken.append(await site.taken(RECEIVE))
        assert taken[-1].content["text"] == expected
