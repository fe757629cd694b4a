"""The worker among hostile messages, consumers and hooks: it goes on, and loses neither messages nor credits."""

import asyncio
import gc
import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels_core import Channel, ChannelLayer, ConsumeLater, Message, WorkerConfig
from channels_core.exceptions import InvalidNameError, LayerUnavailable
from channels_core.headers import CREDIT, CREDITED
from channels_core.layers import Delivery, Outcome, Send, Settlement, Verdict
from channels_core.middleware import ConsumerMiddleware
from channels_core.names import check_channel, new_id
from channels_core.routing import Match
from channels_core.worker import Worker, WorkerEvents
from channels_core.worker.runs import Runner
from channels_layer_memory.layer import MemoryBackend
from waiting_memory import LoopMemory, ThreadMemory
from workbench import WAIT, Bench, Table, wait_until

MakeBench = Callable[..., Bench]


class Mute(Exception):
    """Neither its text nor its notes can be had."""

    __notes__ = property(lambda self: 1 / 0)

    def __str__(self) -> str:
        raise RecursionError("no text")


class Sore(Exception):
    def __str__(self) -> str:
        raise SystemExit


class Shy:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("do not look")


ERRORS: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: RuntimeError("broken"),
    "mute": Mute,
    "sore": Sore,
    "unencodable": lambda: ValueError("\ud800 and \0"),
    "huge": lambda: ValueError("x" * 10**6),
    "generator exit": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "stop iteration": StopIteration,
    "recursion": RecursionError,
    "memory": MemoryError,
    "group": lambda: BaseExceptionGroup("several", [KeyError("a"), GeneratorExit()]),
}
error_names = pytest.mark.parametrize("name", ERRORS)
some_error_names = pytest.mark.parametrize("name", ["plain", "sore", "cancelled", "generator exit"])
two_kinds = pytest.mark.parametrize("make_bench", ["memory", "threads"], indirect=True)
"""Enough where what is shown does not depend on the engine."""


def make_error(name: str) -> BaseException:
    return ERRORS[name]()


class Socket:
    """The interface's end of one connection with a window of one."""

    def __init__(self, bench: Bench) -> None:
        self.backend = bench.backend
        process = self.backend.open_process("interface")
        self.prefix = f"websocket.send.{process}!"
        self.name = self.prefix + "client"

    def send(self, channel: str, **content: Any) -> None:
        message = {"reply_channel": self.name, **content}
        assert self.backend.send_one(Send(channel, message, {CREDIT: self.name}, 10)) is Outcome.SENT

    def replies(self, timeout: float = WAIT) -> list[dict[str, Any]]:
        """What comes until the credit is back."""
        found = []
        while True:
            found_now = self.backend.receive_batch([self.prefix], limit=1, timeout=timeout)
            assert found_now, "the credit never came back"
            (delivery,) = found_now
            if delivery.content:
                found.append(delivery.content)
            if CREDITED in delivery.headers:
                assert delivery.headers[CREDITED] == "client"
                return found

    def has_nothing_more(self) -> bool:
        return self.backend.receive_batch([self.prefix], limit=1, timeout=0) == []


def answer(message: Message) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"echo": message["text"]})


def assert_goes_on(socket: Socket) -> None:
    socket.send("websocket.receive", text="hello")
    assert socket.replies() == [{"echo": "hello"}]


# What a consumer raises.


@two_kinds
@error_names
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_a_consumer_raises_costs_its_message_only(
    bench: Bench, name: str, is_async: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def consumer(message: Message) -> None:
        if message["text"] == "fail":
            raise make_error(name)
        answer(message)

    async def aconsumer(message: Message) -> None:
        consumer(message)

    socket = Socket(bench)
    bench.work({"websocket.receive": aconsumer if is_async else consumer})
    socket.send("websocket.receive", text="fail")

    assert socket.replies() == []
    assert_goes_on(socket)
    assert socket.has_nothing_more()


@two_kinds
@error_names
@pytest.mark.parametrize("is_async", [False, True])
def test_whatever_an_at_least_once_consumer_raises_ends_in_the_dead_letters(
    make_bench: MakeBench, name: str, is_async: bool
) -> None:
    def consumer(message: Message) -> None:
        raise make_error(name)

    async def aconsumer(message: Message) -> None:
        raise make_error(name)

    bench = make_bench(delivery={"orders": "at-least-once"}, max_attempts=2)
    bench.work({"orders": aconsumer if is_async else consumer})
    bench.layer.send("orders", {"n": 1})
    wait_until(bench.backend.dead_letters)

    (letter,) = bench.backend.dead_letters()
    assert (letter.content, letter.attempt) == ({"n": 1}, 2)
    assert letter.reason.encode()
    assert "\0" not in letter.reason
    assert len(letter.reason) < 2000


def test_an_error_without_a_text_is_logged_all_the_same(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> None:
        raise Sore

    bench.work({"in": consumer})
    bench.layer.send("in", {})
    wait_until(lambda: bench.layer.counters.failed)
    wait_until(lambda: caplog.messages and "Sore" in caplog.messages[-1])

    assert caplog.messages[-1].endswith(
        "on 'in' (reply channel None): Sore: (its text cannot be made: SystemExit)"
    )


def test_a_log_handler_that_fails_costs_no_message(bench: Bench) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    def consumer(message: Message) -> None:
        if message["text"] == "fail":
            raise RuntimeError("broken")
        answer(message)

    socket = Socket(bench)
    handler = Broken()
    logging.getLogger("channels.worker").addHandler(handler)
    try:
        bench.work({"websocket.receive": consumer})
        socket.send("websocket.receive", text="fail")
        assert socket.replies() == []
        assert_goes_on(socket)
    finally:
        logging.getLogger("channels.worker").removeHandler(handler)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failed_message_is_no_garbage_for_the_cycle_collector(is_async: bool) -> None:
    def consumer(message: Message) -> None:
        raise RuntimeError("broken")

    async def aconsumer(message: Message) -> None:
        raise RuntimeError("broken")

    logger = logging.getLogger("channels.worker")
    logger.setLevel(logging.CRITICAL + 1)  # whoever keeps log records keeps their tracebacks
    layer = ChannelLayer(MemoryBackend())
    layer.router = Table({"in": aconsumer if is_async else consumer})
    runner = Runner(layer, message_retries=10, middleware=(), events=None, callback=None)
    gc.disable()
    try:
        run = runner.begin(Delivery("in", {}, {}))
        message = weakref.ref(run.message)
        run = asyncio.run(runner.arun(run)) if is_async else runner.run(run)
        del run
        assert message() is None
    finally:
        gc.enable()
        logger.setLevel(logging.NOTSET)


# What hooks raise.


@two_kinds
@some_error_names
def test_a_router_that_raises_anything_costs_one_message(bench: Bench, name: str) -> None:
    class Fragile(Table):
        def match(self, message: Message) -> Match | None:
            if message["text"] == "fail":
                raise make_error(name)
            return super().match(message)

    socket = Socket(bench)
    bench.work(Fragile({"websocket.receive": answer}))
    socket.send("websocket.receive", text="fail")

    assert socket.replies() == []
    assert_goes_on(socket)


@two_kinds
@pytest.mark.parametrize("match", [5, (), (print,), (print, {}, 1), ("print", {}), (None, {}), (print, None)])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_router_that_returns_nonsense_costs_one_message(bench: Bench, match: Any, is_async: bool) -> None:
    async def aanswer(message: Message) -> None:
        answer(message)

    class Fragile(Table):
        def match(self, message: Message) -> Match | None:
            return match if message["text"] == "fail" else super().match(message)

    socket = Socket(bench)
    bench.work(Fragile({"websocket.receive": aanswer if is_async else answer}))
    socket.send("websocket.receive", text="fail")

    assert socket.replies() == []
    assert_goes_on(socket)


def test_an_at_least_once_message_that_the_router_failed_on_is_dead_with_the_reason(
    make_bench: MakeBench,
) -> None:
    class Fragile(Table):
        def match(self, message: Message) -> Match | None:
            raise TypeError("expected text")

    bench = make_bench(delivery={"orders": "at-least-once"})
    bench.work(Fragile({"orders": print}))
    bench.layer.send("orders", {})
    wait_until(bench.backend.dead_letters)

    assert bench.backend.dead_letters()[0].reason == "The router failed: TypeError: expected text"


@two_kinds
@some_error_names
@pytest.mark.parametrize("is_async", [False, True])
def test_middleware_that_fails_while_it_wraps_costs_messages_only(
    bench: Bench, name: str, is_async: bool
) -> None:
    failures = 2

    class Fragile(ConsumerMiddleware):
        def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
            nonlocal failures
            if failures:
                failures -= 1
                raise make_error(name)
            return call

        awrap = wrap

    async def aanswer(message: Message) -> None:
        answer(message)

    socket = Socket(bench)
    bench.work({"websocket.receive": aanswer if is_async else answer}, middleware=[Fragile()])
    for _ in range(2):
        socket.send("websocket.receive", text="fail")
        assert socket.replies() == []
    assert_goes_on(socket)


@two_kinds
@some_error_names
@pytest.mark.parametrize("hook", ["callback", "consumer_started", "consumer_finished"])
def test_a_hook_that_raises_anything_costs_one_message(bench: Bench, name: str, hook: str) -> None:
    calls = 0

    def fail(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise make_error(name)

    events = WorkerEvents()
    options: dict[str, Any] = {"events": events}
    if hook == "callback":
        options["callback"] = fail
    else:
        setattr(events, hook, fail)
    socket = Socket(bench)
    bench.work({"websocket.receive": answer}, **options)
    socket.send("websocket.receive", text="fail")

    assert socket.replies() == ([{"echo": "fail"}] if hook == "consumer_finished" else [])
    assert_goes_on(socket)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_router_that_asks_for_the_end_stops_the_worker(bench: Bench, is_async: bool) -> None:
    async def aconsumer(message: Message) -> None:
        raise AssertionError("not reached")

    class Leaving(Table):
        def match(self, message: Message) -> Match | None:
            raise SystemExit

    bench.layer.router = Leaving({"in": aconsumer if is_async else print})
    worker = Worker(bench.layer)
    bench.layer.send("in", {})
    worker.run()

    assert bench.backend.processes() == []


@pytest.mark.parametrize("is_mixed", [False, True])
def test_system_exit_in_a_task_of_the_consumers_own_stops_the_worker(
    make_bench: MakeBench, is_mixed: bool
) -> None:
    async def leave() -> None:
        raise SystemExit

    async def consumer(message: Message) -> None:
        Channel("out", channel_layer=bench.layer).send({})
        await asyncio.gather(leave(), asyncio.sleep(WAIT))

    class Mixed(Table):
        @property
        def async_channels(self) -> set[str]:
            return set() if is_mixed else super().async_channels

    bench = make_bench(delivery={"in": "at-least-once"})
    bench.layer.router = Mixed({"in": consumer})
    worker = Worker(bench.layer)
    bench.layer.send("in", {})
    worker.run()

    assert bench.take("out") == {}
    assert bench.deliver("in").attempt == 2, "not lost: the consumer was broken off"


# What is in messages, and what consumers leave of them.


@two_kinds
@pytest.mark.parametrize(
    "reply_channel", [5, [], ["a"], {"a": 1}, True, "", "no such name", "é", "x" * 200, b"bytes", 1.5]
)
def test_a_reply_channel_of_any_type_or_name_is_nothing_to_the_worker(
    bench: Bench, reply_channel: Any
) -> None:
    def consumer(message: Message) -> None:
        if message["text"] == "fail":
            if message.reply_channel is not None:
                message.reply_channel.send({"to": "nobody"})
            raise RuntimeError("broken")
        answer(message)

    socket = Socket(bench)
    bench.work({"websocket.receive": consumer})
    content = {"reply_channel": reply_channel, "text": "fail"}
    bench.backend.send_one(Send("websocket.receive", content, {CREDIT: socket.name}, 10))

    replies = socket.replies()
    assert replies == []
    assert_goes_on(socket)


@two_kinds
@pytest.mark.parametrize("name", [5, [], {}, None, 1.5, object()])
def test_a_name_of_any_other_type_is_a_name_error(bench: Bench, name: Any) -> None:
    for call in (
        Channel(name, channel_layer=bench.layer).send,
        lambda content: bench.layer.send(name, content),
    ):
        with pytest.raises(InvalidNameError, match=r"^A channel name is text, not "):
            call({})
    with pytest.raises(InvalidNameError, match=r"^A group name is text, not "):
        bench.layer.send_group(name, {})


@two_kinds
@pytest.mark.parametrize("retries", [-(2**63), -1, 2**63 - 1, 10, 9, True, "5", None, [], 1.5])
def test_whatever_counts_retries_in_a_message_ends_them(bench: Bench, retries: Any) -> None:
    def consumer(message: Message) -> None:
        if message["text"] == "later":
            raise ConsumeLater
        answer(message)

    socket = Socket(bench)
    bench.work({"websocket.receive": consumer})
    socket.send("websocket.receive", text="later", __retries__=retries)

    assert socket.replies() == []
    assert_goes_on(socket)


LEFT: dict[str, Callable[[Message], object]] = {
    "an object that cannot be shown": lambda message: message.content.update(bad=Shy()),
    "a huge integer": lambda message: message.content.update(bad=10**5000),
    "a huge integer as key": lambda message: message.content.update({10**5000: 1}),  # type: ignore[dict-item]  # the point of it
    "itself": lambda message: message.content.update(bad=message.content),
    "no dict": lambda message: setattr(message, "content", ["no", "dict"]),
    "nothing": lambda message: delattr(message, "content"),
    "too much": lambda message: message.content.update(bad="x" * 2**20),
    "a lone surrogate": lambda message: message.content.update(bad="\ud800"),
}


@two_kinds
@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("kind", ["at-most-once", "at-least-once"])
def test_what_cannot_go_back_is_dropped_and_its_credit_returned(
    make_bench: MakeBench, left: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> None:
        if message["text"] == "later":
            LEFT[left](message)
            raise ConsumeLater
        answer(message)

    bench = make_bench(delivery={"websocket.receive": kind})
    socket = Socket(bench)
    bench.work({"websocket.receive": consumer})
    socket.send("websocket.receive", text="later")

    assert socket.replies() == []
    assert_goes_on(socket)
    assert bench.layer.counters.dead == 1
    (text,) = [one for one in caplog.messages if "raised ConsumeLater" in one]
    assert "cannot go back to 'websocket.receive', so the message is dropped. " in text


def test_what_grew_too_large_to_go_back_says_by_how_much(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> None:
        message.content["grown"] = "x" * 2**20
        raise ConsumeLater

    bench.work({"in": consumer})
    bench.layer.send("in", {})
    wait_until(lambda: bench.layer.counters.dead)
    wait_until(lambda: caplog.messages)

    (text,) = [one for one in caplog.messages if "ConsumeLater" in one]
    assert re.search(
        r"cannot go back to 'in', so the message is dropped\. It has grown to about 10486\d\d bytes; layer 'default'"
        r" carries at most 1048576\.$",
        text,
    )


@two_kinds
@pytest.mark.parametrize("headers", [None, 5, [], "absent"])
@pytest.mark.parametrize("kind", ["at-most-once", "at-least-once"])
def test_a_consumer_that_breaks_its_messages_headers_costs_one_message(
    make_bench: MakeBench, headers: Any, kind: str
) -> None:
    def consumer(message: Message) -> None:
        answer(message)
        if message["text"] == "fail":
            if headers == "absent":
                del message.headers
            else:
                message.headers = headers

    bench = make_bench(delivery={"websocket.receive": kind})
    socket = Socket(bench)
    bench.work({"websocket.receive": consumer})
    socket.send("websocket.receive", text="fail")

    assert socket.replies() == [{"echo": "fail"}]
    assert_goes_on(socket)


@two_kinds
@pytest.mark.parametrize("credit", ["", "x" * 200, "no name", "a!b!c", "é", "a!", "!b", 5, "\n"])
def test_a_credit_that_names_no_channel_is_not_returned(bench: Bench, credit: Any) -> None:
    bench.work({"websocket.receive": answer})
    content = {"reply_channel": "replies", "text": "hello"}
    bench.backend.send_one(Send("websocket.receive", content, {CREDIT: credit}, 10))

    assert bench.take("replies") == {"echo": "hello"}
    wait_until(lambda: bench.layer.counters.consumed == 1)
    assert {one.channel for one in bench.backend.statistics()} <= {"websocket.receive", "replies"}
    assert_goes_on(Socket(bench))


def test_names_at_the_limit_are_answered(bench: Bench) -> None:
    local = "x" * (99 - len(f"a.{new_id()}!"))
    process = bench.backend.open_process("interface")
    channel, prefix = "c" * 99, f"a.{process}!"
    reply = prefix + local

    def consumer(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"n": 1})

    bench.work({channel: consumer})
    bench.backend.send_one(Send(channel, {"reply_channel": reply}, {CREDIT: reply}, 10))
    (delivery,) = bench.backend.receive_batch([prefix], limit=1, timeout=WAIT)

    assert (delivery.content, delivery.headers[CREDITED]) == ({"n": 1}, local)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_generator_is_no_consumer_and_the_log_says_so(
    bench: Bench, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> Iterator[None]:
        yield

    async def aconsumer(message: Message) -> Any:
        yield

    bench.work({"in": aconsumer if is_async else consumer})
    bench.layer.send("in", {})
    wait_until(lambda: caplog.messages and "generator" in caplog.messages[-1])

    assert caplog.messages[-1].endswith(
        "on 'in' returned a generator; nobody iterates it, so its work is not done. Take the 'yield' out of the"
        " consumer."
    )


class Unhashable:
    __hash__ = None  # type: ignore[assignment]  # the point of it

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("incomparable")

    def __getattribute__(self, name: str) -> Any:
        if name == "__qualname__":
            raise RuntimeError("no name")
        return super().__getattribute__(name)

    def __call__(self, message: Message) -> None:
        if message["text"] == "fail":
            raise RuntimeError("broken")
        answer(message)


def test_a_consumer_may_be_unhashable_incomparable_and_nameless(bench: Bench) -> None:
    socket = Socket(bench)
    bench.work({"websocket.receive": Unhashable()})
    socket.send("websocket.receive", text="fail")

    assert socket.replies() == []
    assert_goes_on(socket)


def test_consumers_made_anew_for_each_message_are_never_mistaken_for_one_another(bench: Bench) -> None:
    class Fresh(Table):
        def match(self, message: Message) -> Match | None:
            text = message["text"]

            def consumer(message: Message) -> None:
                assert message["text"] == text
                answer(message)

            return consumer, {}

    socket = Socket(bench)
    bench.work(Fresh({"websocket.receive": answer}))
    for n in range(300):
        socket.send("websocket.receive", text=n)
        assert socket.replies() == [{"echo": n}]


def test_a_route_added_later_may_be_synchronous_on_a_channel_of_the_loop(bench: Bench) -> None:
    seen: list[bool] = []

    async def aconsumer(message: Message) -> None:
        raise AssertionError("replaced")

    def late(message: Message) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            seen.append(False)
        else:
            seen.append(True)
        answer(message)

    routes: dict[str, Any] = {"websocket.receive": aconsumer}
    socket = Socket(bench)
    bench.work(Table(routes))
    routes["websocket.receive"] = late

    assert_goes_on(socket)
    assert seen == [False], "not on the event loop, which it would stall"


# Giving back.


def hold_batch(bench: Bench, *, count: int, config: WorkerConfig) -> tuple[Worker, threading.Event]:
    """A worker whose consumer is busy with message 0, ``count - 1`` others in its hand."""
    begun, let_go = threading.Event(), threading.Event()

    def consumer(message: Message) -> None:
        if message["n"] == 0:
            begun.set()
            assert let_go.wait(WAIT)
        Channel("out", channel_layer=bench.layer).send({"n": message["n"]})

    worker = bench.work({"in": consumer}, config=config)
    for n in range(-60, 0):  # so that it learns how quick its consumers are
        bench.layer.send("in", {"n": n})
        bench.take("out")
    bench.backend.send_batch([Send("in", {"n": n}, {}, 10) for n in range(count)])
    assert begun.wait(WAIT)
    return worker, let_go


def pending(bench: Bench, channel: str) -> int:
    return sum(one.pending for one in bench.backend.statistics([channel]))


@pytest.mark.parametrize("kind", ["at-most-once", "at-least-once"])
def test_a_stop_gives_back_in_order_what_was_not_begun(make_bench: MakeBench, kind: str) -> None:
    bench = make_bench(delivery={"in": kind})
    worker, let_go = hold_batch(bench, count=6, config=WorkerConfig(prefetch_time=10.0, release_after=WAIT))
    wait_until(lambda: pending(bench, "in") == 0)
    stopping = threading.Thread(target=worker.stop, args=(WAIT,))
    stopping.start()
    let_go.set()
    stopping.join(WAIT)

    assert bench.take("out") == {"n": 0}
    back = [bench.deliver("in") for _ in range(5)]
    assert [delivery.content["n"] for delivery in back] == [1, 2, 3, 4, 5]
    assert {delivery.attempt for delivery in back} == {1}
    assert pending(bench, "in") == 0


@pytest.mark.parametrize("kind", ["at-most-once", "at-least-once"])
def test_what_waits_behind_a_slow_consumer_goes_back_in_order(make_bench: MakeBench, kind: str) -> None:
    bench = make_bench(delivery={"in": kind})
    _, let_go = hold_batch(bench, count=6, config=WorkerConfig(prefetch_time=10.0, release_after=0.1))
    wait_until(lambda: pending(bench, "in") == 5)
    try:
        back = [bench.deliver("in") for _ in range(5)]
        assert [delivery.content["n"] for delivery in back] == [1, 2, 3, 4, 5]
        bench.backend.settle([Settlement(delivery, Verdict.DONE) for delivery in back])
    finally:
        let_go.set()
    assert bench.take("out") == {"n": 0}


def test_consumers_now_slow_now_quick_run_each_message_once(make_bench: MakeBench) -> None:
    bench = make_bench(capacity=10_000)

    def consumer(message: Message) -> None:
        if message["n"] % 50 == 49:
            threading.Event().wait(0.03)
        Channel("out", channel_layer=bench.layer).send({"n": message["n"]})

    config = WorkerConfig(threads=3, prefetch_time=0.05, release_after=0.001)
    bench.work({"in": consumer}, config=config)
    for n in range(1000):
        bench.layer.send("in", {"n": n})

    assert sorted(bench.take("out")["n"] for _ in range(1000)) == list(range(1000))
    assert bench.layer.receive(["out"]) == (None, None)


# Leases.


@pytest.mark.parametrize("is_async", [False, True])
def test_a_consumer_may_run_longer_than_its_lease(make_bench: MakeBench, is_async: bool) -> None:
    runs: list[int] = []

    def consumer(message: Message) -> None:
        runs.append(message.attempt)
        threading.Event().wait(2.0)
        Channel("out", channel_layer=bench.layer).send({})

    async def aconsumer(message: Message) -> None:
        runs.append(message.attempt)
        await asyncio.sleep(2.0)
        await Channel("out", channel_layer=bench.layer).asend({})

    bench = make_bench(delivery={"in": "at-least-once"}, lease=1.0)
    for _ in range(2):
        bench.work({"in": aconsumer if is_async else consumer})
    bench.layer.send("in", {})
    bench.take("out")

    assert runs == [1]
    assert bench.backend.receive_batch(["in"], limit=1, timeout=0) == []


def test_an_input_whose_sends_are_tried_again_keeps_its_lease(make_bench: MakeBench) -> None:
    runs: list[int] = []

    def consumer(message: Message) -> None:
        runs.append(message.attempt)
        Channel("full", channel_layer=bench.layer).send({"n": "new"})

    bench = make_bench(delivery={"in": "at-least-once"}, lease=0.4, channel_capacity={"full": 1})
    bench.layer.send("full", {"n": "old"})
    for _ in range(2):
        bench.work({"in": consumer}, config=WorkerConfig(send_retry_time=WAIT))
    bench.layer.send("in", {})
    wait_until(lambda: bench.layer.counters.full >= 1)
    threading.Event().wait(1.2)

    assert [bench.take("full")["n"] for _ in range(2)] == ["old", "new"]
    wait_until(lambda: bench.backend.statistics(["in"])[0].leased == 0)
    assert runs == [1]


def test_a_worker_whose_process_has_lapsed_opens_another(make_bench: MakeBench) -> None:
    bench = make_bench(process_lease=0.6)
    worker = bench.work({"in": lambda message: Channel("out", channel_layer=bench.layer).send({})})
    first = worker.process
    assert first is not None
    bench.backend.close_process(first)
    wait_until(lambda: worker.process != first)
    bench.layer.send("in", {})

    assert bench.take("out") == {}
    assert [info.id for info in bench.backend.processes()] == [worker.process]


def test_a_redelivered_message_is_as_it_was_sent(make_bench: MakeBench) -> None:
    seen: list[tuple[dict[str, Any], list[str]]] = []

    def consumer(message: Message) -> None:
        seen.append((dict(message.content), sorted(message.headers)))
        message.content.clear()
        message.headers.clear()
        raise RuntimeError("after it took the message apart")

    bench = make_bench(delivery={"in": "at-least-once"}, max_attempts=2)
    bench.work({"in": consumer})
    bench.layer.send("in", {"n": 1})
    wait_until(bench.backend.dead_letters)

    assert seen[0] == seen[1] == ({"n": 1}, ["c-at"])
    assert bench.backend.dead_letters()[0].content == {"n": 1}


# Other layers, and engines that go away.


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", [MemoryBackend, ThreadMemory, LoopMemory])
def test_sends_to_another_layer_of_any_kind_leave_at_once(
    bench: Bench, kind: Callable[..., Any], is_async: bool
) -> None:
    other = Bench(kind)

    def consumer(message: Message) -> None:
        Channel("there", channel_layer=other.layer).send({"n": 1})
        Channel("here", channel_layer=bench.layer).send({"n": 2})

    async def aconsumer(message: Message) -> None:
        consumer(message)

    bench.work({"in": aconsumer if is_async else consumer})
    bench.layer.send("in", {})
    try:
        assert other.take("there", timeout=2) == {"n": 1}
        assert bench.take("here") == {"n": 2}
    finally:
        other.close()


def test_another_layer_that_fails_costs_what_was_sent_there(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryBackend):
        def send_batch(self, sends: Any) -> Any:
            raise OSError("no route to host")

    other = ChannelLayer(Broken(), alias="other")

    def consumer(message: Message) -> None:
        Channel("there", channel_layer=other).send({})
        answer(message)

    socket = Socket(bench)
    bench.work({"websocket.receive": consumer})
    assert_goes_on(socket)
    assert_goes_on(socket)

    assert other.counters.dropped == 2
    assert "1 messages of a consumer are dropped: the layer 'other' failed." in caplog.messages


class Flaky(MemoryBackend):
    """Its engine goes away before the calls that are named, as often as is said; not for the test itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.away: dict[str, int] = {}

    def _reach(self, name: str) -> None:
        if self.away.get(name, 0) and threading.current_thread() is not threading.main_thread():
            self.away[name] -= 1
            raise LayerUnavailable("the engine is away")

    def settle(self, settlements: Any) -> None:
        self._reach("settle")
        super().settle(settlements)

    def send_batch(self, sends: Any) -> Any:
        self._reach("send_batch")
        return super().send_batch(sends)

    def receive_batch(self, channels: Any, **options: Any) -> Any:
        self._reach("receive_batch")
        return super().receive_batch(channels, **options)

    def send_one(self, send: Send) -> Outcome:
        self._reach("send_batch")
        return super().send_one(send)


@pytest.mark.parametrize("starts", [Worker.start, Worker.run])
def test_a_worker_that_cannot_reach_its_engine_at_the_start_waits_for_it(
    starts: Callable[[Worker], object], caplog: pytest.LogCaptureFixture
) -> None:
    class Away(MemoryBackend):
        is_away = True

        def open_process(self, *args: Any, **options: Any) -> str:
            self._look()
            return super().open_process(*args, **options)

        def receive_batch(self, *args: Any, **options: Any) -> Any:
            self._look()
            return super().receive_batch(*args, **options)

        def _look(self) -> None:
            if self.is_away:
                raise LayerUnavailable("connection refused")

    backend = Away()
    layer = ChannelLayer(backend)
    consumed = threading.Event()
    layer.router = Table({"jobs": lambda message: consumed.set()})
    worker = Worker(layer)
    thread = threading.Thread(target=starts, args=(worker,))
    thread.start()
    wait_until(lambda: bool(caplog.messages))
    assert worker.process is None
    layer.send("jobs", {})
    backend.is_away = False
    assert consumed.wait(WAIT)
    wait_until(lambda: [one.id for one in backend.processes()] == [worker.process])
    worker.request_stop()
    assert starts is Worker.run or worker.stop()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert backend.processes() == []
    [away, back] = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert away == (
        "The channel layer 'default' is away (LayerUnavailable: connection refused). Workers wait and try again until"
        " it is back."
    )
    assert back.startswith("The channel layer 'default' is back after ")


class WaitingFlaky(Flaky, ThreadMemory):
    """The same of a layer that waits."""


@pytest.fixture(params=[Flaky, WaitingFlaky])
def flaky(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param, delivery={"websocket.jobs": "at-least-once"})
    yield bench
    bench.close()


@pytest.mark.parametrize("channel", ["websocket.receive", "websocket.jobs"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("away", ["settle", "send_batch", "receive_batch"])
def test_an_engine_that_goes_away_at_any_call_costs_and_doubles_nothing(
    flaky: Bench, channel: str, is_async: bool, away: str
) -> None:
    runs: list[int] = []
    backend: Any = flaky.backend

    def consumer(message: Message) -> None:
        runs.append(message["text"])
        if message["text"] == 1:
            backend.away[away] = 3
        answer(message)

    async def aconsumer(message: Message) -> None:
        consumer(message)

    socket = Socket(flaky)
    flaky.work({channel: aconsumer if is_async else consumer})
    for text in range(4):
        socket.send(channel, text=text)
        assert socket.replies() == [{"echo": text}]

    wait_until(lambda: backend.statistics([channel])[0].leased == 0)
    assert runs == [0, 1, 2, 3]
    assert socket.has_nothing_more()


@pytest.mark.parametrize("channel", ["websocket.receive", "websocket.jobs"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_message_put_back_while_the_engine_is_away_is_not_lost(
    flaky: Bench, channel: str, is_async: bool
) -> None:
    backend: Any = flaky.backend

    def consumer(message: Message) -> None:
        if "__retries__" not in message:
            backend.away["settle"] = 3
            raise ConsumeLater
        answer(message)

    async def aconsumer(message: Message) -> None:
        consumer(message)

    socket = Socket(flaky)
    flaky.work({channel: aconsumer if is_async else consumer})
    socket.send(channel, text="again")

    assert socket.replies() == [{"echo": "again"}]
    assert socket.has_nothing_more()


def test_what_is_given_back_while_the_engine_is_away_is_not_lost(flaky: Bench) -> None:
    backend: Any = flaky.backend
    _, let_go = hold_batch(flaky, count=6, config=WorkerConfig(prefetch_time=10.0, release_after=0.2))
    backend.away["settle"] = 4
    try:
        wait_until(lambda: pending(flaky, "in") == 5)
    finally:
        let_go.set()

    assert sorted(flaky.take("out")["n"] for _ in range(6)) == [0, 1, 2, 3, 4, 5]


class Narrow(ThreadMemory):
    """Its encoding of some messages is larger than its limit, which only it can know."""

    def send_batch(self, sends: Any) -> Any:
        outcomes = super().send_batch([send for send in sends if "large" not in send.content])
        found = iter(outcomes)
        return [Outcome.TOO_LARGE if "large" in send.content else next(found) for send in sends]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_reply_that_the_engine_finds_too_large_is_counted_and_its_credit_returned(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"large": 1})

    async def aconsumer(message: Message) -> None:
        consumer(message)

    bench = Bench(Narrow)
    try:
        socket = Socket(bench)
        bench.work({"websocket.receive": aconsumer if is_async else consumer})
        socket.send("websocket.receive")
        assert socket.replies() == []
        assert bench.layer.counters.dropped == 1
        assert any("is dropped: too large." in text for text in caplog.messages)
    finally:
        bench.close()


def test_a_credit_whose_reply_found_no_room_comes_back_when_there_is_some(make_bench: MakeBench) -> None:
    bench = make_bench(inbox_capacity=2)
    socket = Socket(bench)
    for n in range(2):
        bench.backend.send_one(Send(socket.name, {"n": n}, {}, 1))
    bench.work(
        {"websocket.receive": answer}, config=WorkerConfig(send_retry_time=0.4, send_retry_interval=0.01)
    )
    socket.send("websocket.receive", text="no room")
    wait_until(lambda: bench.layer.counters.dropped == 1)

    assert socket.replies() == [{"n": 0}, {"n": 1}]


# Beginning and end.


def test_a_worker_that_never_started_stops(bench: Bench) -> None:
    bench.layer.router = Table({"in": print, "async": asyncio.sleep})

    assert Worker(bench.layer).stop(WAIT)


@pytest.mark.parametrize("error", [RuntimeError("not ready"), SystemExit(3)])
def test_a_worker_that_cannot_start_leaves_nothing_behind(bench: Bench, error: BaseException) -> None:
    class Unready(WorkerEvents):
        def worker_ready(self, worker: Worker) -> None:
            raise error

    bench.layer.router = Table({"in": print})
    with pytest.raises(type(error)):
        Worker(bench.layer, events=Unready()).run()

    assert bench.backend.processes() == []


def test_stopping_again_or_at_once_from_many_threads_is_one_stop(bench: Bench) -> None:
    worker = bench.work({"in": print}, config=WorkerConfig(threads=2))
    stopped: list[bool] = []
    threads = [threading.Thread(target=lambda: stopped.append(worker.stop(WAIT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)

    assert stopped == [True] * 4
    assert worker.stop(WAIT)
    assert bench.backend.processes() == []


def test_a_consumers_exit_stops_a_worker_also_where_nobody_waits_for_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> None:
        raise SystemExit

    bench.work({"in": consumer}, config=WorkerConfig(threads=2))
    bench.layer.send("in", {})
    wait_until(lambda: bench.backend.processes() == [])

    (text,) = [one for one in caplog.messages if one.startswith("The worker")]
    assert text == (
        "The worker of layer 'default' stops: a consumer raised SystemExit or KeyboardInterrupt, or a thread"
        " failed."
    )


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stop_that_runs_out_of_time_says_so_and_at_least_once_messages_return(
    make_bench: MakeBench, is_async: bool
) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def consumer(message: Message) -> None:
        begun.set()
        assert let_go.wait(WAIT)

    async def aconsumer(message: Message) -> None:
        begun.set()
        await asyncio.to_thread(let_go.wait, WAIT)

    bench = make_bench(delivery={"in": "at-least-once"})
    worker = bench.work({"in": aconsumer if is_async else consumer})
    bench.layer.send("in", {})
    assert begun.wait(WAIT)
    try:
        assert not worker.stop(0.3)
        assert bench.deliver("in").attempt == 2
    finally:
        let_go.set()


# Fuzzing.

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.one_of(st.sampled_from(["reply_channel", "__retries__", "text", "order"]), st.text())
names = st.one_of(st.text(max_size=120), st.from_regex(r"\A[a-z.]{1,9}([?!][a-z]{1,9})?\Z"))
header_maps = st.dictionaries(
    st.one_of(st.sampled_from([CREDIT, CREDITED, "c-at", "c-v"]), st.text(max_size=9)),
    st.one_of(names, st.integers(-(2**63), 2**63 - 1)),
    max_size=4,
)
deliveries = st.builds(
    Delivery,
    channel=names,
    content=st.dictionaries(keys, values, max_size=5),
    headers=header_maps,
    locals=st.sampled_from([(), ("a",), ("a", "b")]),
    attempt=st.integers(1, 10),
    is_leased=st.booleans(),
)
ends = st.sampled_from(
    ["return", "raise", "later", "deny", "exit", "unrouted", "router", "mute", "later bad"]
)


class Scripted(Table):
    """Ends each message as it is told."""

    def __init__(self) -> None:
        super().__init__({})
        self.end = "return"

    def match(self, message: Message) -> Match | None:
        if self.end == "unrouted":
            return None
        if self.end == "router":
            raise TypeError("the router")
        return self.consume, {}

    def consume(self, message: Message) -> None:
        if message.reply_channel is not None:
            try:
                message.reply_channel.send({"n": 1})
            except TypeError as error:
                assert isinstance(error, InvalidNameError)  # noqa: PT017 - both kinds of names are drawn
        if self.end == "later bad":
            message.content["bad"] = Shy()
        if self.end.startswith("later"):
            raise ConsumeLater
        if self.end == "deny":
            from channels_core import DenyConnection

            raise DenyConnection
        if self.end == "exit":
            raise SystemExit
        if self.end == "mute":
            raise Mute
        if self.end == "raise":
            raise RuntimeError("broken")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delivery=deliveries, end=ends)
def test_any_delivery_ends_in_one_settlement_and_at_most_one_credit(
    delivery: Delivery, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, "channels.worker")
    layer = ChannelLayer(MemoryBackend())
    router = Scripted()
    router.end = end
    layer.router = router
    before = (dict(delivery.headers), set(delivery.content))
    runner = Runner(layer, message_retries=10, middleware=(), events=None, callback=None)
    run = runner.run(runner.begin(delivery))

    goes_back = {one.verdict for one in (run.requeue, run.settlement) if one is not None} & {
        Verdict.REQUEUE,
        Verdict.RELEASE,
    }
    assert (run.settlement is not None) is delivery.is_leased
    assert run.requeue is None or not delivery.is_leased
    credits = [send for send in run.sends if CREDITED in send.headers]
    assert len(credits) == (0 if goes_back else _is_channel(before[0].get(CREDIT)))
    for send in run.sends:
        check_channel(send.channel)
    assert run.must_stop is (end == "exit")
    assert run.is_closed


def _is_channel(name: object) -> bool:
    try:
        check_channel(name)  # type: ignore[arg-type]  # anything may be asked
    except InvalidNameError:
        return False
    return True


@settings(max_examples=30, deadline=None)
@given(
    messages=st.lists(
        st.tuples(st.dictionaries(keys, values, max_size=4), header_maps, ends), min_size=1, max_size=12
    )
)
def test_a_worker_outlives_any_messages(
    messages: list[tuple[dict[str, Any], Mapping[str, Any], str]],
) -> None:
    logging.getLogger("channels.worker").setLevel(logging.CRITICAL + 1)
    bench = Bench(capacity=1000)
    try:
        ended = threading.Event()

        class Ends(Scripted):
            @property
            def channels(self) -> set[str]:
                return {"in", "end"}

            def match(self, message: Message) -> Match | None:
                if message.channel_name == "end":
                    return (lambda message: ended.set()), {}
                self.end = str(message.headers.get("end", "return"))
                return super().match(message)

        bench.work(Ends())
        for content, headers, end in messages:
            if end != "exit":
                bench.backend.send_one(Send("in", content, {**headers, "end": end}, 10))
        wait_until(lambda: pending(bench, "in") == 0)
        bench.layer.send("end", {})
        assert ended.wait(WAIT)
    finally:
        logging.getLogger("channels.worker").setLevel(logging.NOTSET)
        bench.close()
