"""`clean()`: what is of no use to anybody goes, what is stays, and who comes back notices nothing."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from channels_core.headers import CREDIT
from channels_core.layers import AT_LEAST_ONCE, Delivery, Outcome, Send, Settlement, Verdict
from channels_layer_redis import RedisBackend
from channels_layer_redis.transport.slots import key_slot
from redis_servers import KINDS, RedisCluster, RedisServer, eventually

KEPT = "1:5:k:9::"
"""What is noted with a message whose expiry has been stopped."""


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.do("FLUSHALL")
    return running


@pytest.fixture
def backend(server: RedisServer) -> Iterator[RedisBackend]:
    made = make(server)
    yield made
    made.close()


def make(server: RedisServer, **options: Any) -> RedisBackend:
    return RedisBackend(hosts=[server.url], delivery={"jobs.*": AT_LEAST_ONCE}, **options)


def send(backend: RedisBackend, *channels: str) -> None:
    assert backend.send_batch([Send(name, {"n": 1}, {}, 9) for name in channels]) == [Outcome.SENT] * len(
        channels
    )


def take(backend: RedisBackend, channel: str) -> Delivery:
    [delivery] = backend.receive_batch([channel], timeout=0)
    return delivery


def settle(backend: RedisBackend, delivery: Delivery, verdict: Verdict) -> None:
    backend.settle([Settlement(delivery, verdict)])


def age(server: RedisServer, key: str) -> None:
    """Have it be long ago that somebody sent to the stream, or read it. What it holds waits anew, and for ever."""
    entries = server.do("XRANGE", key, "-", "+")
    server.do("DEL", key)
    server.do("XGROUP", "CREATE", key, "w", 0, "MKSTREAM")
    for _, fields in entries:
        server.do("XADD", key, "5-1", *fields[:2], "x", KEPT)


def streams(server: RedisServer) -> set[str]:
    keys = {key.decode() for key in server.do("KEYS", "channels:[ctq]:*")}
    return {key.removeprefix("channels:").replace(":{q0}", " ") for key in keys}


@pytest.mark.parametrize("name", ["used.once", "jobs.once", "answer?abc"])
def test_a_channel_out_of_use_leaves_nothing_and_can_be_used_again(
    server: RedisServer, backend: RedisBackend, name: str
) -> None:
    for _ in range(2):
        send(backend, name)
        settle(backend, take(backend, name), Verdict.DONE)
        assert (backend.clean(), streams(server)) == (0, {f"c {name}"})  # it is in use
        age(server, f"channels:c:{{q0}}{name}")
        assert (backend.clean(), streams(server)) == (1, set())
        assert backend.clean() == 0


def test_what_waits_or_is_leased_stays_however_old_it_is(server: RedisServer, backend: RedisBackend) -> None:
    waiting, front = "channels:c:{q0}jobs.waiting", "channels:c:{q0}jobs.front"
    send(backend, "jobs.waiting")
    age(server, waiting)
    [[entry, fields]] = server.do("XRANGE", waiting, "-", "+")
    assert entry == b"5-1"
    assert backend.clean() == 0
    held = take(backend, "jobs.waiting")
    assert backend.clean() == 0
    server.do("XDEL", waiting, entry)  # as trimming does
    assert backend.clean() == 0
    settle(backend, held, Verdict.DONE)
    age(server, waiting)

    server.do("XGROUP", "CREATE", front, "w", 0, "MKSTREAM")
    server.do("LPUSH", "channels:f:{q0}jobs.front", KEPT.encode() + b"\n" + fields[1])
    assert (backend.clean(), streams(server)) == (1, {"c jobs.front"})
    held = take(backend, "jobs.front")
    age(server, front)
    assert (backend.clean(), streams(server)) == (1, {"t jobs.front"})
    assert backend.clean() == 0
    settle(backend, held, Verdict.RELEASE)
    assert take(backend, "jobs.front").content == {"n": 1}


def test_dead_letters_stay_and_their_empty_streams_go(server: RedisServer, backend: RedisBackend) -> None:
    send(backend, "jobs.a", "jobs.b")
    for name in ("jobs.a", "jobs.b"):
        settle(backend, take(backend, name), Verdict.DEAD)
        age(server, f"channels:c:{{q0}}{name}")
    first, second = backend.dead_letters()
    backend.drop_dead([first.id])
    age(server, "channels:q:{q0}jobs.a")
    assert (backend.clean(), streams(server)) == (3, {"q jobs.b"})
    assert [letter.id for letter in backend.dead_letters()] == [second.id]
    assert backend.replay_dead([second.id]) == 1
    assert take(backend, "jobs.b").attempt == 1


@pytest.mark.parametrize("name", ["quiet", "jobs.quiet"])
def test_who_waits_keeps_the_stream_and_does_not_notice_where_it_goes(
    server: RedisServer, backend: RedisBackend, name: str
) -> None:
    key = f"channels:c:{{q0}}{name}"
    found: list[Delivery] = []

    def read() -> None:
        while not found:
            found.extend(backend.receive_batch([name], timeout=10))

    reader = threading.Thread(target=read)
    reader.start()
    with server.client() as client:
        eventually(lambda: client.info("clients")["blocked_clients"] == 1, "a reader that waits")
        if server.kind == "valkey":  # older ones do not note who reads and finds nothing
            assert backend.clean() == 0
        server.do("UNLINK", key)
        eventually(
            lambda: client.info("clients")["blocked_clients"] == 1 and client.exists(key), "the same reader"
        )
    send(backend, name)
    reader.join(10)
    assert [one.content for one in found] == [{"n": 1}]


def test_messages_that_expired_unread_go_and_their_credit_comes_back(server: RedisServer) -> None:
    backend = make(server, expiry=0.2)
    owed: list[Mapping[str, str | int]] = []

    def note(headers: Sequence[Mapping[str, str | int]]) -> None:
        owed.extend(headers)

    backend.on_expired = note
    try:
        for name in ("a", "b"):
            backend.send_one(Send(name, {}, {CREDIT: f"in.x!{name}"}, 0))
        send(backend, "jobs.held")
        held = take(backend, "jobs.held")
        gone: list[int] = []

        def clean() -> bool:
            gone.append(backend.clean())
            return sum(gone) >= 2

        eventually(clean, "two expired messages")
        assert sorted(headers[CREDIT] for headers in owed) == ["in.x!a", "in.x!b"]
        assert (sum(gone), backend.counters.expired) == (2, 2)
        settle(backend, held, Verdict.RELEASE)
        assert take(backend, "jobs.held").attempt == 1
    finally:
        backend.close()


def test_memberships_of_processes_that_nobody_ended_go(server: RedisServer, backend: RedisBackend) -> None:
    dead, alive = backend.open_process("interface"), backend.open_process("interface")
    for process in (dead, alive):
        backend.group_add("g", f"in.{process}!x")
        server.do("ZADD", "channels:r:{g.g}", "XX", 1, f"in.{process}!")
    for letter in "px":  # they lapse by themselves where no process is left to end others
        server.do("UNLINK", f"channels:{letter}:{{{dead}}}")
    server.do("ZREM", "channels:l:{registry}", dead)
    server.do("XADD", f"channels:c:{{q0}}in.{alive}!", "1-1", "not", "ours")
    assert server.do("ZCARD", "channels:r:{g.g}") == 2
    assert (backend.clean(), backend.clean()) == (1, 0)
    assert server.do("ZRANGE", "channels:r:{g.g}", 0, -1) == [f"in.{alive}!".encode()]
    assert server.do("EXISTS", f"channels:m:{{g.g}}in.{dead}!") == 0
    assert backend.group_channels("g") == [f"in.{alive}!x"]


def test_about_as_many_go_as_were_asked_for(server: RedisServer, backend: RedisBackend) -> None:
    names = [f"used.{number}" for number in range(400)]
    for name in names:
        server.do("XGROUP", "CREATE", f"channels:c:{{q0}}{name}", "w", "0", "MKSTREAM")
    some = backend.clean(limit=50)
    assert 50 <= some < 250
    assert len(streams(server)) == 400 - some
    assert backend.clean() == 400 - some


def test_in_a_cluster_too() -> None:
    with RedisCluster() as cluster:
        backend = RedisBackend(cluster=cluster.hosts, channel_tags=64)
        try:
            names = [f"used.{number}" for number in range(20)]
            send(backend, *names)
            used = set()
            for name in names:
                take(backend, name)
            for master in cluster.masters:
                for key in master.do("KEYS", "channels:c:*"):
                    assert cluster.owner_of(key_slot(key.decode())) is master
                    used.add(master.port)
                    age(master, key.decode())
            assert len(used) == 3
            send(backend, "waiting")
            assert (backend.clean(), backend.clean()) == (20, 0)
            assert take(backend, "waiting").content == {"n": 1}
        finally:
            backend.close()
