"""The server dies, forgets, breaks connections off: what it kept is not lost, what it forgot is told to it anew."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Delivery, Outcome, Send
from channels_layer_redis import RedisBackend
from redis_servers import RedisCluster, RedisServer


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@asynccontextmanager
async def opened(server: RedisServer, **options: Any) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(hosts=[server.url], **options)
    try:
        yield backend
    finally:
        await backend.aclose()


async def read_on(backend: RedisBackend, prefix: str, process: str, into: list[Delivery]) -> None:
    """What an interface server's receiving task does, outages included."""
    while True:
        try:
            into += await backend.areceive_batch([prefix], limit=100, timeout=None, process=process)
        except LayerUnavailable:
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_server_that_forgot_everything_is_told_who_is_there_and_in_which_groups(
    server: RedisServer,
) -> None:
    async with opened(server) as backend, opened(server) as other:
        process = await backend.aopen_process("interface", label="web")
        prefix = f"websocket.send.{process}!"
        for number in range(50):
            await backend.agroup_add("g", f"{prefix}{number}")
        received: list[Delivery] = []
        reading = asyncio.create_task(read_on(backend, prefix, process, received))
        assert await other.asend_one(Send("g", {"n": 1}, {}, 9, True)) is Outcome.SENT
        await until(lambda: received)
        server.restart()

        async def counts() -> int:
            with suppress(LayerUnavailable):
                return await other.agroup_count("g")
            return 0

        async with asyncio.timeout(20):
            while await counts() < 50:
                await asyncio.sleep(0.02)
        assert [found.id for found in await other.aprocesses()] == [process]
        assert await backend.arenew_process(process) is True
        received.clear()
        assert await other.asend_one(Send("g", {"n": 2}, {}, 9, True)) is Outcome.SENT
        await until(lambda: received)
        assert sorted(map(int, received[0].locals)) == list(range(50))
        reading.cancel()


async def test_an_inbox_loses_nothing_when_its_readers_connections_are_cut(server: RedisServer) -> None:
    async with opened(server) as backend, opened(server) as other:
        process = await backend.aopen_process("interface")
        prefix = f"in.{process}!"
        received: list[Delivery] = []
        reading = asyncio.create_task(read_on(backend, prefix, process, received))
        sent = 0
        for cut in range(15):
            for _ in range(40):
                with suppress(LayerUnavailable):
                    outcome = await other.asend_one(Send(f"{prefix}x", {"n": sent}, {}, 9))
                    assert outcome is Outcome.SENT
                    sent += 1
            for client in server.do("CLIENT", "LIST").decode().splitlines():
                fields = dict(pair.split("=", 1) for pair in client.split(" ") if "=" in pair)
                if cut % 3 and fields.get("cmd", "").startswith("xread"):
                    server.do("CLIENT", "KILL", "ID", fields["id"])
        await until(lambda: len(received) >= sent)
        assert [one.content["n"] for one in received] == list(range(sent))
        reading.cancel()


async def test_a_stream_that_is_behind_what_was_read_is_read_from_its_beginning(server: RedisServer) -> None:
    """As after a failover to a replica whose clock is behind: entries from now on are older than the last one read."""
    async with opened(server, expiry=1e10) as backend:
        process = await backend.aopen_process("interface")
        prefix = f"in.{process}!"
        await backend.agroup_add("g", f"{prefix}x")
        await backend.asend_one(Send(f"{prefix}x", {"n": 1}, {}, 9))
        assert len(await backend.areceive_batch([prefix], timeout=0)) == 1
        inbox = f"channels:i:{{{process}}}"
        await backend.asend_one(Send("g", {"n": 2}, {}, 9, True))
        [(_, fields)] = server.do("XREVRANGE", inbox, "+", "-", "COUNT", 1)
        server.do("DEL", inbox)
        server.do("XADD", inbox, "5-1", *fields)
        assert await backend.areceive_batch([prefix], timeout=0) == []
        backend._processes.inbox(process).epoch -= 1
        [delivery] = await backend.areceive_batch([prefix], timeout=0)
        assert (delivery.content, delivery.locals) == ({"n": 2}, ("x",))


@pytest.mark.parametrize("was_cut_off", [False, True])
async def test_a_lease_that_lapsed_without_an_outage_is_not_taken_anew(
    server: RedisServer, was_cut_off: bool
) -> None:
    async with opened(server, process_lease=0.6) as backend, opened(server, process_lease=0.6) as other:
        process, witness = await backend.aopen_process("interface"), await other.aopen_process("worker")
        channel = f"websocket.send.{process}!x"
        await backend.agroup_add("g", channel)
        for _ in range(6):
            await asyncio.sleep(0.2)
            assert await other.arenew_process(witness) is True
        assert await other.asend_one(Send(channel, {"n": 1}, {}, 9)) is Outcome.GONE
        if was_cut_off:
            server.do("CLIENT", "KILL", "TYPE", "normal")
            for _ in range(2):
                with suppress(LayerUnavailable):
                    assert await backend.areceive_batch([channel[:-1]], timeout=0, process=process) == []
            assert await backend.areceive_batch([channel[:-1]], timeout=0, process=process) == []
            assert await other.agroup_channels("g") == []
        assert await backend.arenew_process(process) is False


async def test_without_a_server_nothing_is_sent_and_it_is_said_so() -> None:
    backend = RedisBackend(hosts=["redis://127.0.0.1:1/0"], connect_timeout=0.5)
    with pytest.raises(LayerUnavailable, match=r"^Not sent: redis://127\.0\.0\.1:1 cannot be reached: "):
        await backend.asend_one(Send("a", {}, {}, 9))
    with pytest.raises(LayerUnavailable):
        await backend.areceive_batch(["a"], timeout=0)
    await backend.aclose()


@pytest.mark.parametrize("deduplicate", [True, False])
async def test_a_server_that_stands_still_gets_each_send_once_where_calls_are_deduplicated(
    server: RedisServer, deduplicate: bool
) -> None:
    async with opened(server, deduplicate=deduplicate, answer_timeout=0.4, capacity=1000) as backend:
        await backend.asend_one(Send("a", {"n": -1}, {}, 9))
        server.pause()
        sending = [asyncio.create_task(backend.asend_one(Send("a", {"n": n}, {}, 9))) for n in range(20)]
        await asyncio.sleep(1.5)
        server.resume()
        outcomes = set(await asyncio.gather(*sending))
        assert outcomes == {Outcome.SENT if deduplicate else Outcome.UNCERTAIN}
        received = await backend.areceive_batch(["a"], limit=100, timeout=5)
        assert [one.content["n"] for one in received] == list(range(-1, 20))


async def test_in_a_cluster_too_each_send_arrives_once_where_calls_are_deduplicated() -> None:
    with RedisCluster() as cluster:
        backend = RedisBackend(cluster=cluster.hosts, deduplicate=True, answer_timeout=0.4, channel_tags=8)
        try:
            names = [f"a.{number}" for number in range(16)]
            await backend.asend_batch([Send(name, {"n": 0}, {}, 9) for name in names])
            cluster.masters[1].pause()
            sending = asyncio.create_task(
                backend.asend_batch([Send(name, {"n": 1}, {}, 9) for name in names])
            )
            await asyncio.sleep(1.2)
            cluster.masters[1].resume()
            assert await sending == [Outcome.SENT] * len(names)
            received = [
                one for name in names for one in await backend.areceive_batch([name], limit=9, timeout=0)
            ]
            assert sorted((one.channel, one.content["n"]) for one in received) == sorted(
                (name, number) for name in names for number in (0, 1)
            )
        finally:
            await backend.aclose()
