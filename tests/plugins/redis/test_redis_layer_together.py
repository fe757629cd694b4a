"""Fewer trips: sends of one loop that leave together, and a wait that is written behind the call that takes."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from channels_core.exceptions import LayerUnavailable
from channels_core.layers import Outcome, Send, Settlement, Turn, Verdict
from channels_layer_redis import RedisBackend
from channels_layer_redis.engine import Block
from faulty_proxy import Fault, FaultyProxy
from redis_servers import RedisServer, eventually

Make = Callable[..., RedisBackend]


@pytest.fixture
def make(server: RedisServer) -> Iterator[Make]:
    server.do("FLUSHALL")
    made: list[RedisBackend] = []

    def backend(**options: Any) -> RedisBackend:
        made.append(RedisBackend(**{"hosts": [f"redis://127.0.0.1:{server.port}"], **options}))
        return made[-1]

    yield backend
    for one in made:
        one.close()


def sending(channel: str, number: int) -> Send:
    return Send(channel, {"n": number}, {}, 9)


def calls(server: RedisServer, command: str) -> int:
    """How often the server has carried out ``command``."""
    lines: str = server.do("INFO", "commandstats").decode()
    found = [line for line in lines.splitlines() if line.startswith(f"cmdstat_{command}:")]
    return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0


async def test_sends_of_one_turn_of_the_loop_are_one_call(make: Make, server: RedisServer) -> None:
    backend = make()
    await backend.asend_one(sending("a", 0))
    before = calls(server, "evalsha")
    outcomes = await asyncio.gather(*(backend.asend_one(sending("a", n)) for n in range(1, 51)))
    assert outcomes == [Outcome.SENT] * 50
    assert calls(server, "evalsha") == before + 1
    received = await backend.areceive_batch(["a"], limit=100, timeout=0)
    assert [delivery.content["n"] for delivery in received] == list(range(51))
    assert backend.counters.sent == 51


async def test_sends_made_meanwhile_leave_with_the_next_call(make: Make, server: RedisServer) -> None:
    backend = make(capacity=1000)
    await backend.asend_one(sending("a", 0))
    before = calls(server, "evalsha")

    async def one_after_another(first: int) -> None:
        for number in range(first, first + 10):
            assert await backend.asend_one(sending("a", number)) is Outcome.SENT

    await asyncio.gather(*(one_after_another(first) for first in range(0, 200, 10)))
    assert calls(server, "evalsha") - before <= 30, "20 senders at once, 10 sends each"
    assert len(await backend.areceive_batch(["a"], limit=1000, timeout=0)) == 201


async def test_each_sender_learns_what_became_of_its_own(make: Make) -> None:
    backend = make(channel_capacity={"small": 2})
    process, gone = [await backend.aopen_process("interface") for _ in range(2)]
    await backend.aclose_process(gone)
    names = ["small", "small", "small", f"in.{process}!a", f"in.{gone}!a", "other"]
    outcomes = await asyncio.gather(*(backend.asend_one(sending(name, 1)) for name in names))
    assert outcomes == [
        Outcome.SENT,
        Outcome.SENT,
        Outcome.FULL,
        Outcome.SENT,
        Outcome.GONE,
        Outcome.SENT,
    ]
    counters = backend.counters
    assert (counters.sent, counters.full, counters.gone) == (4, 1, 1)
    await backend.aleave_loop()


async def test_what_cannot_be_packed_fails_by_itself(make: Make) -> None:
    backend = make()
    unpackable = Send("a", {"n": object()}, {}, 9)
    results = await asyncio.gather(
        backend.asend_one(sending("a", 1)),
        backend.asend_one(unpackable),
        backend.asend_one(sending("a", 2)),
        return_exceptions=True,
    )
    assert [results[0], results[2]] == [Outcome.SENT, Outcome.SENT]
    assert isinstance(results[1], TypeError)
    received = await backend.areceive_batch(["a"], limit=5, timeout=0)
    assert [delivery.content["n"] for delivery in received] == [1, 2]


async def test_a_send_that_is_cancelled_before_it_leaves_is_not_sent(make: Make) -> None:
    backend = make()
    await backend.asend_one(sending("a", 0))
    kept, given_up = (asyncio.ensure_future(backend.asend_one(sending("a", n))) for n in (1, 2))
    await asyncio.sleep(0)  # both wait now; nothing has left
    given_up.cancel()
    assert await kept is Outcome.SENT
    assert given_up.cancelled()
    received = await backend.areceive_batch(["a"], limit=5, timeout=0)
    assert [delivery.content["n"] for delivery in received] == [0, 1]


async def test_a_call_that_is_not_answered_holds_up_nobody_for_long(make: Make, server: RedisServer) -> None:
    with FaultyProxy(server.address) as proxy:
        backend = make(hosts=[f"redis://127.0.0.1:{proxy.port}"], answer_timeout=0.6, retry_timeout=0.2)
        await backend.asend_one(sending("a", 0))
        proxy.arm(Fault(swallow_up=0))
        silent = asyncio.ensure_future(backend.asend_one(sending("a", 1)))
        await asyncio.sleep(0.1)  # longer than anybody is held up
        later = asyncio.ensure_future(backend.asend_one(sending("a", 2)))
        started = monotonic()
        results = await asyncio.gather(silent, later, return_exceptions=True)
    assert all(one is Outcome.UNCERTAIN or isinstance(one, LayerUnavailable) for one in results), results
    assert monotonic() - started < 5, (
        "each waits for its own answer, not for the other's and then for its own"
    )


class Faces:
    """The operations of a backend from a plain function, blocking or on an event loop."""

    def __init__(self, backend: RedisBackend, face: str) -> None:
        self._backend = backend
        self._runner = asyncio.Runner() if face == "async" else None

    def __call__(self, operation: str, *args: Any, **options: Any) -> Any:
        if self._runner is None:
            return getattr(self._backend, operation)(*args, **options)
        return self._runner.run(getattr(self._backend, f"a{operation}")(*args, **options))

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(self._backend.aleave_loop())
            self._runner.close()


@pytest.fixture(params=["sync", "async"])
def idle(request: pytest.FixtureRequest, make: Make) -> Iterator[tuple[RedisBackend, Faces]]:
    """A backend whose reader of the channels "a" and "b" expects to find nothing."""
    backend = make(channel_capacity={"small": 1}, delivery={"jobs": "at-least-once"})
    faces = Faces(backend, request.param)
    for channels in (["a", "b"], ["jobs"]):
        for _ in range(4):
            assert faces("receive_batch", channels, limit=10, timeout=0.01, process="w" * 26) == []
    yield backend, faces
    faces.close()


def test_a_reader_with_nothing_to_do_takes_and_waits_in_one_trip(
    idle: tuple[RedisBackend, Faces], server: RedisServer
) -> None:
    _, faces = idle
    reads = int(server.do("INFO", "stats").decode().partition("total_reads_processed:")[2].split()[0])
    assert faces("receive_batch", ["a", "b"], limit=10, timeout=0.05) == []
    now = int(server.do("INFO", "stats").decode().partition("total_reads_processed:")[2].split()[0])
    assert now - reads <= 3, "one for both commands, and those of the two questions"


@pytest.mark.parametrize("channel", ["a", "jobs"])
def test_what_is_there_ends_the_wait_behind_it(idle: tuple[RedisBackend, Faces], channel: str) -> None:
    _, faces = idle
    for number in range(3):
        assert faces("send_one", sending(channel, number)) is Outcome.SENT
    started = monotonic()
    channels = ["a", "b"] if channel == "a" else ["jobs"]
    received = faces("receive_batch", channels, limit=10, timeout=20, process="w" * 26)
    assert [delivery.content["n"] for delivery in received] == [0, 1, 2]
    assert monotonic() - started < 10


def test_more_than_half_of_the_limit_comes_in_order_and_never_more_than_the_limit(
    idle: tuple[RedisBackend, Faces],
) -> None:
    _, faces = idle
    for number in range(25):
        assert faces("send_one", sending("a", number)) is Outcome.SENT
    found: list[int] = []
    while len(found) < 25:
        received = faces("receive_batch", ["a", "b"], limit=10, timeout=5, process="w" * 26)
        assert 0 < len(received) <= 10
        found += [delivery.content["n"] for delivery in received]
    assert found == list(range(25))


def test_a_send_that_is_refused_ends_the_wait_behind_it(idle: tuple[RedisBackend, Faces]) -> None:
    _, faces = idle
    turns = [Turn([sending("small", 1)], None), Turn([sending("small", 2)], None)]
    started = monotonic()
    exchange = faces("exchange", turns, ["a", "b"], limit=10, timeout=20)
    assert exchange.outcomes == [[Outcome.SENT], [Outcome.FULL]]
    assert monotonic() - started < 10


def test_a_turn_ends_its_lease_and_waits_for_the_next_message(
    idle: tuple[RedisBackend, Faces], server: RedisServer
) -> None:
    backend, faces = idle
    assert faces("send_one", sending("jobs", 1)) is Outcome.SENT
    [delivery] = faces("receive_batch", ["jobs"], limit=10, timeout=5, process="w" * 26)
    for _ in range(3):
        assert faces("exchange", [], ["jobs"], limit=10, timeout=0.01, process="w" * 26).deliveries == []
    turn = Turn([sending("out", 1)], Settlement(delivery, Verdict.DONE))
    exchange = faces("exchange", [turn], ["jobs"], limit=10, timeout=0.05, process="w" * 26)
    assert (exchange.outcomes, exchange.deliveries, exchange.unsettled) == ([[Outcome.SENT]], [], [])
    [figures] = backend.statistics(["jobs"])
    assert (figures.pending, figures.leased) == (0, 0)


def test_where_waits_cannot_be_ended_the_call_is_made_first(make: Make, server: RedisServer) -> None:
    server.do("ACL", "SETUSER", "guest", "on", ">pw", "~*", "&*", "+@all", "-client|unblock")
    try:
        backend = make(hosts=[f"redis://guest:pw@127.0.0.1:{server.port}"])
        for _ in range(4):
            assert backend.receive_batch(["a"], limit=10, timeout=0.01) == []
        backend.send_one(sending("a", 1))
        started = monotonic()
        assert [delivery.content["n"] for delivery in backend.receive_batch(["a"], limit=10, timeout=20)] == [
            1
        ]
        assert monotonic() - started < 10
        backend.close()
    finally:
        server.do("ACL", "DELUSER", "guest")


@pytest.mark.parametrize("face", ["sync", "async"])
def test_where_waits_cannot_be_ended_a_lost_wait_leaves_what_the_call_did(
    make: Make, server: RedisServer, face: str
) -> None:
    server.do("ACL", "SETUSER", "guest", "on", ">pw", "~*", "&*", "+@all", "-client|unblock")

    def cut_when_it_waits() -> None:
        eventually(lambda: "blocked_clients:1" in server.do("INFO", "clients").decode(), "a wait")
        proxy.cut()

    with FaultyProxy(server.address) as proxy:
        backend = make(hosts=[f"redis://guest:pw@127.0.0.1:{proxy.port}"], retry_timeout=0.2)
        faces = Faces(backend, face)
        for _ in range(4):
            assert faces("receive_batch", ["a"], limit=10, timeout=0.01) == []
        cutting = threading.Thread(target=cut_when_it_waits)
        cutting.start()
        exchange = faces("exchange", [Turn([sending("out", 1)], None)], ["a"], limit=10, timeout=5)
        cutting.join()
        assert (exchange.outcomes, exchange.deliveries) == ([[Outcome.SENT]], [])
        assert (backend.counters.sent, backend.counters.uncertain) == (1, 0)
        faces.close()
        backend.close()
    server.do("ACL", "DELUSER", "guest")


def test_a_read_that_was_ended_by_mistake_looks_again(
    idle: tuple[RedisBackend, Faces], server: RedisServer
) -> None:
    _, faces = idle

    def blocked() -> list[str]:
        clients: str = server.do("CLIENT", "LIST").decode()
        return [line.split()[0].removeprefix("id=") for line in clients.splitlines() if " flags=b" in line]

    def end_it() -> None:
        [number] = eventually(blocked, "a wait")
        server.do("CLIENT", "UNBLOCK", number)

    for take in ("receive_batch", "exchange"):
        ending = threading.Thread(target=end_it)
        ending.start()
        started = monotonic()
        if take == "exchange":
            assert faces("exchange", [], ["a", "b"], limit=10, timeout=1.0).deliveries == []
        else:
            assert faces("receive_batch", ["a", "b"], limit=10, timeout=1.0) == []
        assert monotonic() - started >= 0.99
        ending.join()


def test_what_is_there_ends_the_wait_behind_it_where_the_server_refused_both_for_a_while(
    idle: tuple[RedisBackend, Faces], server: RedisServer
) -> None:
    _, faces = idle
    assert faces("send_one", sending("a", 1)) is Outcome.SENT
    server.do("REPLICAOF", "127.0.0.1", 1)
    promotion = threading.Timer(0.3, lambda: server.do("REPLICAOF", "NO", "ONE"))
    promotion.start()
    started = monotonic()
    received = faces("receive_batch", ["a", "b"], limit=10, timeout=20)
    assert [delivery.content["n"] for delivery in received] == [1]
    assert monotonic() - started < 4
    promotion.join()


def test_what_the_wait_brought_goes_back_where_the_end_of_what_was_taken_breaks_off(
    make: Make, server: RedisServer
) -> None:
    backend = make(delivery={"jobs": "at-least-once"})
    for _ in range(4):
        assert backend.receive_batch(["jobs", "a"], limit=10, timeout=0.01, process="w" * 26) == []
    server.do("XADD", backend._engine.channels.queue("jobs").key, "*", "m", "nobody can read it")
    steps = backend._receiving.receive(["jobs", "a"], 4, 5, "w" * 26)
    request = next(steps)
    while not isinstance(request, Block):
        assert isinstance(request, list)
        request = steps.send(backend._transport.for_thread().call(request))
    call, wait = request.commands
    [taken] = backend._transport.for_thread().call([call])
    assert backend.send_one(sending("a", 1)) is Outcome.SENT
    [brought] = backend._transport.for_thread().call([wait])
    steps.send([taken, brought])  # it wants to say that the first one is given up
    steps.close()
    [delivery] = backend.receive_batch(["a"], limit=10, timeout=5)
    assert delivery.content == {"n": 1}


@pytest.mark.parametrize("deduplicate", [False, True])
def test_of_turns_that_leave_together_only_those_end_whose_sends_arrived(
    make: Make, deduplicate: bool
) -> None:
    backend = make(channel_capacity={"small": 2}, delivery={"jobs": "at-least-once"}, deduplicate=deduplicate)
    for number in range(5):
        backend.send_one(sending("jobs", number))
    deliveries = backend.receive_batch(["jobs"], limit=5, timeout=5, process="w" * 26)
    sends: list[list[Send]] = [
        [],
        [sending("small", 1), sending("other", 1)],
        [sending("small", 2), sending("small", 3)],
        [sending("other", 2)],
        [sending("small", 4)],
    ]
    turns = [
        Turn(of_turn, Settlement(delivery, Verdict.DONE))
        for of_turn, delivery in zip(sends, deliveries, strict=True)
    ]
    exchange = backend.exchange(turns, [], limit=0, timeout=0)
    assert exchange.outcomes == [
        [],
        [Outcome.SENT, Outcome.SENT],
        [Outcome.SENT, Outcome.FULL],
        [Outcome.SENT],
        [Outcome.FULL],
    ]
    [figures] = backend.statistics(["jobs"])
    assert (figures.pending, figures.leased) == (0, 2), "the third and the fifth"
    backend.settle([Settlement(deliveries[n], Verdict.RELEASE, is_begun=True) for n in (2, 4)])
    again = backend.receive_batch(["jobs"], limit=5, timeout=5, process="w" * 26)
    assert [(delivery.content["n"], delivery.attempt) for delivery in again] == [(2, 2), (4, 2)]
