"""What may go wrong around the layer: foreign bytes in the server, calls that break off half-way, a full memory."""

import asyncio
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import zstandard

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Delivery, Outcome, Send, Settlement, Turn, Verdict
from channels_layer_redis import RedisBackend
from channels_layer_redis.encryption import Cipher, Unreadable
from channels_layer_redis.engine import Leftover
from channels_layer_redis.envelope import Envelope
from channels_layer_redis.transport import Unsent
from redis_servers import RedisServer, eventually

Make = Callable[..., RedisBackend]


@pytest.fixture(scope="module", params=["valkey", "redis-6.2"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as running:
        yield running


@pytest.fixture
def make(server: RedisServer) -> Iterator[Make]:
    server.do("FLUSHALL")
    made: list[RedisBackend] = []

    def make(**options: Any) -> RedisBackend:
        made.append(RedisBackend(hosts=[server.url], **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def numbered(name: str, number: int) -> Send:
    return Send(name, {"n": number}, {}, 9)


def numbers(deliveries: list[Delivery]) -> list[Any]:
    return [delivery.content["n"] for delivery in deliveries]


def no_server(*args: Any) -> Any:
    raise Unsent("Not sent: there is no server.")


# Foreign bytes.


@pytest.mark.parametrize("delivery", ["at-most-once", "at-least-once"])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        ["foo", "bar"],
        ["m", "bar", "x", "garbage"],
        ["m", "", "x", "1:x::::"],
        ["m", b"\xff\x10", "x", b"\xff\xfe"],
        ["a", "b", "c", "d", "e", "f"],
    ],
)
def test_what_others_write_to_a_channel_stops_nobody(
    server: RedisServer, make: Make, fields: list[str | bytes], delivery: str, waits: bool
) -> None:
    reader, writer = (make(delivery={"a": delivery}) for _ in range(2))
    assert reader.receive_batch(["a"], timeout=0) == []

    def write() -> None:
        server.do("XADD", "channels:c:{q0}a", "*", *fields)
        writer.send_one(numbered("a", 1))

    timer = threading.Timer(0.1 if waits else 0.0, write)
    timer.start()
    if not waits:
        timer.join()
    received: list[Delivery] = []
    end = time.monotonic() + 10
    while not received and time.monotonic() < end:
        received += reader.receive_batch(["a"], timeout=1, limit=5, process="p")
    timer.join()
    assert numbers(received) == [1]
    assert reader.counters.dead == 1


@pytest.mark.parametrize(
    "fields",
    [
        ["=", "nonsense", "m", "x"],
        ["=", b"\xff", "m", "x"],
        ["=", "in.PROC!x:zz:", "m", "x"],
        ["*", "a:b", "m", "x"],
        ["+", "a", "m", ""],
        ["+", "a:b:c:d:e", "m", ""],
        ["?!", "a"],
    ],
)
def test_what_others_write_to_an_inbox_stops_nobody(
    server: RedisServer, make: Make, fields: list[str | bytes]
) -> None:
    backend = make(inbox_capacity=3)
    process = backend.open_process("interface")
    prefix, inbox = f"in.{process}!", f"channels:i:{{{process}}}"
    foreign = [one.replace("PROC", process) if isinstance(one, str) else one for one in fields]
    backend.send_one(numbered(f"{prefix}x", 0))
    server.do("XADD", inbox, "*", *foreign)
    backend.send_batch([numbered(f"{prefix}x", number) for number in (1, 2)])
    assert backend.send_one(numbered(f"{prefix}x", 3)) is Outcome.FULL
    assert numbers(backend.receive_batch([prefix], timeout=0, limit=5)) == [0, 1, 2]
    assert backend.receive_batch([prefix], timeout=0, limit=5) == []
    server.do("XADD", inbox, "*", *foreign)
    assert backend.send_one(numbered(f"{prefix}x", 3)) is Outcome.SENT
    assert numbers(backend.receive_batch([prefix], timeout=0, limit=5)) == [3]
    backend.close_process(process)
    assert server.do("EXISTS", inbox) == 0


@pytest.mark.parametrize("meta", ["garbage", b"\xff\xfe", "1:2::3:g:"])
def test_what_others_write_expires_and_names_nobody(
    server: RedisServer, make: Make, meta: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make()
    backend.on_expired = no_server  # nobody's credit comes back for it
    server.do("XADD", "channels:c:{q0}answer?secret", "1-1", "m", b"\x14\xff", "x", meta)
    assert backend.receive_batch(["answer?secret"], timeout=0) == []
    assert backend.counters.expired == 1
    [line] = caplog.messages
    assert line.startswith("An expired message of 'answer?secr...' cannot be read: ")


def test_what_others_put_among_the_dead_letters_is_listed_and_can_be_dropped(
    server: RedisServer, make: Make
) -> None:
    backend = make(delivery={"a": "at-least-once"})
    for field in ("foo", "a"):
        server.do("XADD", "channels:q:{q0}a", "*", field, "bar")
    letters = backend.dead_letters()
    assert [(one.channel, one.attempt, one.content) for one in letters] == [("a", 1, {})] * 2
    assert backend.drop_dead([one.id for one in letters]) == 2


def test_a_message_that_says_it_expands_to_more_than_there_is_is_unreadable() -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xC0 | 0x20]) + struct.pack("<Q", 1 << 42) + b"\x01\x00\x00"
    assert zstandard.frame_content_size(frame) == 1 << 42
    with pytest.raises(
        Unreadable, match=r"^it would expand to 4398046511104 bytes, more than any message has$"
    ):
        Envelope("p", None, 10).unpack(b"\x12" + frame, "a")


def test_a_sealed_broadcast_cannot_be_passed_off_as_a_message_to_a_channel_of_the_groups_name(
    server: RedisServer, make: Make
) -> None:
    backend = make(encryption_keys=["a secret"])
    backend.group_add("payments", "members")
    backend.send_one(Send("payments", {"n": 1}, {}, 9, True))
    [(_, fields)] = server.do("XRANGE", "channels:c:{q0}members", "-", "+")
    server.do("XADD", "channels:c:{q0}payments", "*", "m", fields[1])
    assert backend.receive_batch(["payments"], timeout=0) == []
    assert backend.counters.dead == 1
    assert numbers(backend.receive_batch(["members"], timeout=0)) == [1]


# Threads.


def test_threads_that_seal_their_first_messages_together_share_no_key_with_another_ones_counter() -> None:
    for _ in range(20):
        cipher = Cipher(["a secret"])
        derive, together = cipher._derive, threading.Barrier(6)

        def derive_slowly(key_id: bytes, subkey_id: bytes, derive: Any = derive) -> Any:
            time.sleep(0.0005)
            return derive(key_id, subkey_id)

        cipher._derive = derive_slowly  # type: ignore[method-assign]  # so that all begin before one has ended
        sealed: list[bytes] = []

        def seal(
            cipher: Cipher = cipher, together: threading.Barrier = together, into: list[bytes] = sealed
        ) -> None:
            together.wait()
            into.extend([cipher.seal(b"x", b"a") for _ in range(10)])

        threads = [threading.Thread(target=seal) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cipher._derive = derive  # type: ignore[method-assign]  # as above
        assert len({one[:28] for one in sealed}) == len(sealed) == 60
        assert {cipher.open(one, b"a") for one in sealed} == {b"x"}


def test_threads_may_plan_at_the_same_time(make: Make) -> None:
    engine = make()._engine
    queue, errors = engine.channels.queue("a"), []

    def plan() -> None:
        try:
            for _ in range(5000):
                engine.leftovers.append(Leftover(queue, [b"1-1"], 0, is_pending=False))
                engine.plan()
        except IndexError as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=plan) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []


# What breaks off half-way.


@pytest.mark.parametrize("verdict", [Verdict.RELEASE, Verdict.REQUEUE])
def test_what_could_not_be_put_back_is_put_back_later(
    make: Make, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    backend = make()
    backend.send_one(numbered("a", 1))
    [delivery] = backend.receive_batch(["a"], timeout=0)
    settlement = Settlement(delivery, verdict)
    client = backend._engine._own.client
    with monkeypatch.context() as away:
        away.setattr(client, "call", no_server)
        with pytest.raises(LayerUnavailable):
            backend.settle([settlement])
        with pytest.raises(LayerUnavailable):
            backend.exchange([Turn((), settlement)], ["a"])
    backend.settle([settlement])
    backend.settle([settlement])
    assert numbers(backend.receive_batch(["a"], timeout=0, limit=5)) == [1]


def test_what_was_read_from_an_inbox_survives_the_server_that_goes_away_before_the_rest_is(
    server: RedisServer,
) -> None:
    with RedisServer(server.kind) as mine:
        backend, other = (RedisBackend(hosts=[mine.url], retry_timeout=0.2) for _ in range(2))
        process = backend.open_process("interface")
        prefix = f"in.{process}!"
        other.send_batch([numbered(f"{prefix}x", number) for number in range(3)])
        assert numbers(backend.receive_batch([prefix], timeout=0)) == [0]
        mine.kill()
        assert numbers(backend.receive_batch([prefix], timeout=0, limit=5)) == [1, 2]
        backend.close()
        other.close()


async def test_a_cancelled_receive_of_an_inbox_gives_back_what_it_had_already(server: RedisServer) -> None:
    server.do("FLUSHALL")
    backend = RedisBackend(hosts=[server.url])
    process = await backend.aopen_process("interface")
    prefix = f"in.{process}!"
    await backend.asend_batch([numbered(f"{prefix}x", number) for number in range(3)])
    assert numbers(await backend.areceive_batch([prefix], timeout=0)) == [0]
    server.pause()
    reading = asyncio.create_task(backend.areceive_batch([prefix], timeout=0, limit=5))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    server.resume()
    assert numbers(await backend.areceive_batch([prefix], timeout=0, limit=5)) == [1, 2]
    await backend.aclose()


async def test_an_exchange_that_is_cancelled_while_replicas_are_waited_for_loses_no_message(
    server: RedisServer,
) -> None:
    server.do("FLUSHALL")
    backend, other = RedisBackend(hosts=[server.url], durable_sends=1), RedisBackend(hosts=[server.url])
    await other.asend_one(numbered("a", 1))
    turns = [Turn([numbered("b", 2)])]
    exchange = asyncio.create_task(backend.aexchange(turns, ["a"], timeout=0))
    while not await other.areceive_batch(["b"], timeout=0.1):
        pass
    exchange.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange
    assert numbers(await other.areceive_batch(["a"], timeout=10)) == [1]
    await backend.aclose()
    await other.aclose()


def test_a_dead_letter_goes_back_in_one_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(delivery={"a": "at-least-once"})
    backend.send_one(numbered("a", 1))
    [delivery] = backend.receive_batch(["a"], timeout=0)
    backend.settle([Settlement(delivery, Verdict.DEAD, None, "for a test")])
    [letter] = backend.dead_letters()
    client = backend._engine._own.client
    assert client is not None
    call = client.call

    def call_once(commands: Any) -> Any:
        monkeypatch.setattr(client, "call", no_server)
        return call(commands)

    monkeypatch.setattr(client, "call", call_once)
    with suppress(LayerUnavailable):
        backend.replay_dead([letter.id, letter.id])
    monkeypatch.setattr(client, "call", call)
    assert backend.dead_letters() == []
    assert numbers(backend.receive_batch(["a"], timeout=0, limit=5)) == [1]


# Sizes.


def test_more_messages_than_a_script_can_unpack_at_once(make: Make) -> None:
    backend = make(capacity=10_000)
    for _ in range(30):
        backend.send_batch([numbered("a", number) for number in range(300)])
    assert len(backend.receive_batch(["a"], timeout=0, limit=50_000)) == 9000
    assert backend.statistics(["a"])[0].pending == 0


# What stays in the server, and what does not fit.


def test_readers_of_at_most_once_channels_leave_nothing_of_theirs(server: RedisServer, make: Make) -> None:
    for _ in range(3):
        backend = make()
        process = backend.open_process("worker")
        backend.send_one(numbered("a", 1))
        assert len(backend.receive_batch(["a"], timeout=0, process=process)) == 1
        assert backend.receive_batch(["a"], timeout=0.02, process=process) == []
        backend.close_process(process)
    assert len(server.do("XINFO", "CONSUMERS", "channels:c:{q0}a", "w")) == 1


def test_a_full_memory_stops_sends_and_nothing_else(server: RedisServer, make: Make) -> None:
    backend = make(delivery={"a": "at-least-once"}, process_lease=1.5)
    process = backend.open_process("worker")
    for number in range(2):
        backend.send_one(numbered("a", number))
    backend.group_add("g", f"in.{process}!x")
    server.do("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(LayerUnavailable, match="OOM"):
            backend.send_one(numbered("a", 9))
        assert backend.renew_process(process) is True
        [delivery] = backend.receive_batch(["a"], timeout=0, process=process)
        backend.renew_leases([delivery])
        backend.settle([Settlement(delivery, Verdict.RELEASE)])
        received = backend.receive_batch(["a"], timeout=0, process=process, limit=5)
        assert numbers(received) == [0, 1]
        backend.settle([Settlement(one, Verdict.DONE) for one in received])
        backend.close_channel(f"in.{process}!x")
        assert backend.group_channels("g") == []
        backend.close_process(process)
        assert backend.processes() == []
    finally:
        server.do("CONFIG", "SET", "maxmemory", "0")


def test_messages_to_a_prefix_that_nobody_reads_expire_in_the_readers_hands(make: Make) -> None:
    backend = make(expiry=0.2, inbox_capacity=5)
    process = backend.open_process("interface")
    for _ in range(3):
        for number in range(5):
            assert backend.send_one(numbered(f"other.{process}!x", number)) is Outcome.SENT
        assert backend.receive_batch([f"in.{process}!"], timeout=0.01) == []
        time.sleep(0.25)
        assert backend.receive_batch([f"in.{process}!"], timeout=0.01) == []
        assert backend.receive_batch([f"in.{process}!"], timeout=0.01) == []
    assert backend.counters.expired == 15


def test_a_flush_by_others_is_noticed_whatever_the_servers_clock_says(
    server: RedisServer, make: Make
) -> None:
    backend = make()
    process = backend.open_process("interface")
    prefix = f"in.{process}!"
    server.do("XADD", f"channels:i:{{{process}}}", "99999999999999-0", "?", "", "m", "")
    assert backend.receive_batch([prefix], timeout=0) == []
    make().flush()
    backend.send_one(numbered(f"{prefix}x", 1))
    assert numbers(backend.receive_batch([prefix], timeout=0, limit=5)) == [1]


# Memberships and leases.


def test_members_stay_when_the_version_of_their_group_has_lapsed(server: RedisServer, make: Make) -> None:
    backend = make()
    process = backend.open_process("interface")
    prefix = f"in.{process}!"
    backend.group_add("g", f"{prefix}x")
    assert backend.receive_batch([prefix], timeout=0) == []
    server.do("DEL", "channels:v:{g.g}")
    backend.group_add("g", f"{prefix}y")
    backend.send_one(Send("g", {"n": 1}, {}, 9, True))
    [delivery] = backend.receive_batch([prefix], timeout=0)
    assert sorted(delivery.locals) == ["x", "y"]


def test_a_membership_change_that_broke_off_while_it_was_read_is_read_again(
    server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, other = make(), make()
    process = backend.open_process("interface")
    prefix = f"in.{process}!"
    other.group_add("g", f"{prefix}x")
    assert backend.receive_batch([prefix], timeout=0) == []
    other.group_add("g", f"{prefix}y")
    [*_, (entry, _)] = server.do("XRANGE", f"channels:i:{{{process}}}", "-", "+")
    server.do("XDEL", f"channels:i:{{{process}}}", entry)  # a gap, so that z makes it ask
    other.group_add("g", f"{prefix}z")
    with monkeypatch.context() as away:
        away.setattr(backend._processes.inbox(process), "_pull", no_server)
        with pytest.raises(LayerUnavailable):
            backend.receive_batch([prefix], timeout=0)
    other.send_one(Send("g", {"n": 1}, {}, 9, True))
    [delivery] = backend.receive_batch([prefix], timeout=0)
    assert sorted(delivery.locals) == ["x", "y", "z"]


def test_an_outage_longer_than_a_lease_loses_and_repeats_nothing_that_the_server_kept(
    server: RedisServer,
) -> None:
    with RedisServer(server.kind, appendonly="yes", appendfsync="always") as mine:
        options: dict[str, Any] = {"hosts": [mine.url], "process_lease": 0.6, "retry_timeout": 0.2}
        backend, other = RedisBackend(**options), RedisBackend(**options)
        process = backend.open_process("interface")
        sweeper = other.open_process("worker")
        prefix = f"in.{process}!"
        for local in "xy":
            backend.group_add("g", f"{prefix}{local}")
        other.send_batch([numbered(f"{prefix}x", number) for number in range(600)])
        received = backend.receive_batch([prefix], timeout=0, limit=2)
        mine.kill()
        time.sleep(0.8)
        mine.start()

        def renewed() -> bool:
            try:
                return other.renew_process(sweeper)
            except LayerUnavailable:
                return False

        eventually(renewed, "the other process's renewal")

        def is_complete() -> bool:
            with suppress(LayerUnavailable):
                received.extend(backend.receive_batch([prefix], timeout=0.1, limit=100))
            return len(received) >= 600

        eventually(is_complete, "the rest of the inbox")
        assert backend.receive_batch([prefix], timeout=0.2, limit=100) == []
        assert numbers(received) == list(range(600))
        assert backend.renew_process(process) is True
        assert sorted(other.group_channels("g")) == [f"{prefix}x", f"{prefix}y"]
        assert other.send_one(Send("g", {"n": 1}, {}, 9, True)) is Outcome.SENT
        [delivery] = backend.receive_batch([prefix], timeout=5)
        assert sorted(delivery.locals) == ["x", "y"]
        assert mine.do("HMGET", f"channels:p:{{{process}}}", "n", "b") == [b"1", b"9"]
        backend.close()
        other.close()
