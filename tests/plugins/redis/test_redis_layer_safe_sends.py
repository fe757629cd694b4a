"""Calls that are repeated, sends that wait for replicas, and what a failover leaves of a consumer's turn."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from channels_core.layers import AT_LEAST_ONCE, Delivery, Outcome, Send, Settlement, Turn, Verdict
from channels_layer_redis import RedisBackend
from faulty_proxy import Fault, FaultyProxy
from redis_servers import RedisServer, eventually

SOON = 8.0
"""Seconds; the lease of a message is 30."""


@contextmanager
def opened(server: RedisServer | FaultyProxy, **options: Any) -> Iterator[RedisBackend]:
    backend = RedisBackend(
        hosts=[f"redis://127.0.0.1:{server.port}"], delivery={"jobs": AT_LEAST_ONCE}, **options
    )
    try:
        yield backend
    finally:
        backend.close()


def message(channel: str, number: int) -> Send:
    return Send(channel, {"n": number}, {}, 9)


def read_soon(backend: RedisBackend, channel: str, process: str) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + SOON
    while not found and time.monotonic() < deadline:
        found = backend.receive_batch([channel], limit=5, timeout=0.5, process=process)
    return found


@pytest.mark.parametrize("channel", ["jobs", "chores"])
def test_a_call_that_is_repeated_is_done_once_and_what_it_took_comes_back_if_it_is_leased(
    channel: str,
) -> None:
    with (
        RedisServer() as server,
        FaultyProxy(server.address) as proxy,
        opened(server) as other,
        opened(proxy, deduplicate=True) as backend,
    ):
        process = backend.open_process("worker")
        other.send_batch([message("jobs", 1)])
        [held] = backend.receive_batch(["jobs"], timeout=0, process=process)
        other.send_batch([message(channel, 2)])
        proxy.arm(Fault(cut_down=0))
        turn = Turn([message("out", 3)], Settlement(held, Verdict.DONE))
        exchange = backend.exchange([turn], [channel], limit=5, timeout=0, process=process)
        assert (exchange.outcomes, exchange.deliveries) == ([[Outcome.SENT]], [])
        [done] = other.receive_batch(["out"], limit=5, timeout=0)
        assert done.content == {"n": 3}
        if channel == "jobs":
            [again] = read_soon(backend, "jobs", process)
            assert (again.content, again.attempt) == ({"n": 2}, 1)
            backend.settle([Settlement(again, Verdict.DONE)])
        # else it went down with the connection, as at-most-once says, and nobody gets it twice
        assert [(one.pending, one.leased) for one in other.statistics([channel])] == [(0, 0)]


@pytest.mark.parametrize("cut", [0, len("$2\r\n 1\r\n")], ids=["no answer", "no answer to WAIT"])
def test_a_repeated_send_is_sure_only_if_replicas_have_it(cut: int) -> None:
    """WAIT, on a connection that has written nothing, says at once that all replicas have everything."""
    with (
        RedisServer() as server,
        RedisServer(replicaof=["127.0.0.1", server.port]) as replica,
        FaultyProxy(server.address) as proxy,
        opened(proxy, deduplicate=True, durable_sends=1) as backend,
    ):
        eventually(lambda: replica.do("ROLE")[3] == b"connected", "a replica in step")
        assert backend.send_one(message("chores", 1)) is Outcome.SENT
        replica.pause()
        proxy.arm(Fault(cut_down=cut))
        assert backend.send_one(message("chores", 2)) is Outcome.UNCERTAIN
        assert proxy.accepted > 1
        proxy.arm(Fault(cut_down=cut))
        replica.resume()
        assert backend.send_one(message("chores", 3)) is Outcome.SENT
        assert replica.do("XLEN", "channels:c:{q0}chores") == 3


def test_no_failover_keeps_the_end_of_a_message_and_loses_what_its_consumer_sent() -> None:
    """So such a turn waits for no replica, wherever the stream of changes to it breaks off."""
    with (
        RedisServer() as server,
        FaultyProxy(server.address) as stream,
        RedisServer(replicaof=["127.0.0.1", stream.port]) as replica,
        opened(server, durable_sends=1) as backend,
        opened(replica) as survivor,
    ):

        def offset(of: RedisServer, name: str) -> int:
            with of.client() as client:
                return int(client.info("replication")[name])

        def in_step() -> bool:
            return replica.do("ROLE")[3] == b"connected" and offset(
                replica, "slave_read_repl_offset"
            ) == offset(server, "master_repl_offset")

        def has_read(end: int) -> bool:
            return offset(replica, "slave_read_repl_offset") >= end

        def turn(broken_at: int | None) -> int:
            """One message that is answered, the stream broken at so many bytes; how many there are."""
            [job] = backend.receive_batch(["jobs"], timeout=0)
            eventually(in_step, "a replica in step")
            before = offset(server, "master_repl_offset")
            if broken_at is not None:
                stream.arm(Fault(swallow_down=broken_at))
            end = Settlement(job, Verdict.DONE)
            assert backend.exchange([Turn([message("out", 1)], end)], []).outcomes == [[Outcome.SENT]]
            return offset(server, "master_repl_offset") - before

        eventually(in_step, "a replica in step")
        assert backend.send_one(message("jobs", 1)) is Outcome.SENT
        length = turn(None)
        seen = set()
        for broken_at in (0, length // 3, length * 2 // 3, length - 1, length):
            assert backend.send_one(message("jobs", 1)) is Outcome.SENT
            backend.receive_batch(["out"], timeout=0)
            eventually(in_step, "a replica in step")
            before = offset(replica, "slave_read_repl_offset")
            began = time.monotonic()
            turn(broken_at)
            assert time.monotonic() - began < 0.9  # no WAIT of a second
            eventually(partial(has_read, before + broken_at), "what the stream still brought")
            replica.do("REPLICAOF", "NO", "ONE")
            [jobs, out] = survivor.statistics(["jobs", "out"])
            seen.add((jobs.pending + jobs.leased, out.pending))
            stream.disarm()
            replica.do("REPLICAOF", "127.0.0.1", stream.port)
            eventually(in_step, "a replica in step", 20)
        assert seen == {(1, 0), (0, 1)}
        assert backend.counters.uncertain == 0
