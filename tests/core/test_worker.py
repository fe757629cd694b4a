"""The worker against layers that wait and one that does not: real threads, real loops, real messages."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from channels_core import (
    Channel,
    ChannelSocketException,
    ConfigurationError,
    ConsumeLater,
    DenyConnection,
    Group,
    Message,
    WebsocketCloseException,
    WorkerConfig,
)
from channels_core.exceptions import InvalidMessageError
from channels_core.headers import CREDIT, CREDITED, FRAME, PROCESS
from channels_core.layers import Delivery, Send
from channels_core.middleware import ConsumerMiddleware
from channels_core.routing import Match
from channels_core.transfer import ResponseSender
from channels_core.worker import Worker, WorkerEvents
from workbench import WAIT, Bench, Table, wait_until


def test_a_consumer_gets_the_message_and_what_it_sends_leaves(bench: Bench) -> None:
    def greet(message: Message) -> None:
        assert message.channel is not None
        Channel("answers", channel_layer=message.channel_layer).send(
            {"hello": message["name"], "from": message.channel.name}
        )

    bench.work({"greetings": greet})
    bench.layer.send("greetings", {"name": "Ada"})

    assert bench.take("answers") == {"hello": "Ada", "from": "greetings"}


def test_sends_are_held_until_the_consumer_ended_and_keep_their_order_b1_b4(bench: Bench) -> None:
    layer = bench.layer
    seen_inside: list[tuple[Any, Any]] = []

    def consumer(message: Message) -> None:
        Group("room", channel_layer=layer).add("member")
        Channel("member", channel_layer=layer).send({"n": 1})
        Group("room", channel_layer=layer).send({"n": 2})
        Channel("member", channel_layer=layer).send({"n": 3})
        seen_inside.append(layer.receive(["member"]))

    bench.work({"in": consumer})
    layer.send("in", {})

    assert [bench.take("member")["n"] for _ in range(3)] == [1, 2, 3]
    assert seen_inside == [(None, None)]


def test_immediately_overtakes_what_is_held_b2(bench: Bench) -> None:
    def consumer(message: Message) -> None:
        out = Channel("out", channel_layer=bench.layer)
        out.send({"n": "held"})
        out.send({"n": "now"}, immediately=True)

    bench.work({"in": consumer})
    bench.layer.send("in", {})

    assert [bench.take("out")["n"] for _ in range(2)] == ["now", "held"]


def test_held_sends_leave_when_the_consumer_raises_b3(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def consumer(message: Message) -> None:
        Channel("out", channel_layer=bench.layer).send({"n": 1})
        raise RuntimeError("the consumer broke")

    bench.work({"in": consumer})
    bench.layer.send("in", {"reply_channel": "websocket.send.abc!abcdefgh"})

    assert bench.take("out") == {"n": 1}
    record = next(one for one in caplog.records if one.levelno == logging.ERROR)
    assert record.name == "channels.worker"
    assert record.exc_info is not None
    assert record.getMessage() == (
        "Error processing message with consumer test_worker.test_held_sends_leave_when_the_consumer_raises_b3."
        "<locals>.consumer on 'in' (reply channel websocket.send.abc!abcd...): RuntimeError: the consumer broke"
    ).replace("test_worker", consumer_module())


def consumer_module() -> str:
    return consumer_module.__module__


def test_a_thread_that_a_consumer_started_sends_at_once_b7(bench: Bench) -> None:
    inside: list[tuple[Any, Any]] = []

    def consumer(message: Message) -> None:
        thread = threading.Thread(
            target=lambda: Channel("out", channel_layer=bench.layer).send({"from": "thread"})
        )
        thread.start()
        thread.join()
        inside.append(bench.layer.receive(["out"]))
        Channel("done", channel_layer=bench.layer).send({})

    bench.work({"in": consumer})
    bench.layer.send("in", {})
    bench.take("done")

    assert inside == [("out", {"from": "thread"})]


async def test_a_task_that_outlives_its_consumer_sends_at_once_b7(bench: Bench) -> None:
    outliving: list[asyncio.Task[None]] = []
    may_send = threading.Event()

    async def late() -> None:
        assert await asyncio.to_thread(may_send.wait, WAIT)
        await Channel("out", channel_layer=bench.layer).asend({"from": "task"})

    async def consumer(message: Message) -> None:
        outliving.append(asyncio.create_task(late()))
        await Channel("done", channel_layer=bench.layer).asend({})

    await asyncio.to_thread(bench.work, {"in": consumer})
    await bench.layer.asend("in", {})
    assert await bench.layer.areceive(["done"], timeout=WAIT) == ("done", {})
    may_send.set()

    assert await bench.layer.areceive(["out"], timeout=WAIT) == ("out", {"from": "task"})


def test_consume_later_runs_eleven_times_then_drops_b13_b14_b15(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[tuple[int | None, int, bool]] = []
    ended = threading.Event()

    def consumer(message: Message) -> None:
        runs.append((message.get("__retries__"), message.get("mark", 0), hasattr(message, "__doomed__")))
        message.content["mark"] = len(runs)
        if len(runs) == 11:
            ended.set()
        raise ConsumeLater

    worker = bench.work({"in": consumer})
    bench.layer.send("in", {})
    assert ended.wait(WAIT)
    worker.stop(WAIT)

    assert runs == [(None, 0, False), *((n, n, n == 10) for n in range(1, 11))]
    assert bench.layer.receive(["in"]) == (None, None)
    assert bench.layer.counters.requeued == 10
    assert (
        "A message on 'in' was put back 10 times by"
        f" {consumer_module()}.test_consume_later_runs_eleven_times_then_drops_b13_b14_b15.<locals>.consumer and is"
        " dropped: ConsumeLater is honoured message_retries times."
    ) in caplog.messages


def test_consume_later_never_loses_to_a_full_channel_b16(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(capacity=1)
    results: list[int] = []

    def consumer(message: Message) -> None:
        if message["n"] == 1 and "__retries__" not in message:
            bench.layer.send("in", {"n": 2})
            raise ConsumeLater
        results.append(message["n"])
        if len(results) == 2:
            Channel("done", channel_layer=bench.layer).send({})

    bench.work({"in": consumer})
    bench.layer.send("in", {"n": 1})
    bench.take("done")

    assert results == [2, 1]


def test_consume_later_with_content_that_cannot_go_back_is_logged_and_dropped(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> None:
        if message.get("n") == 1:
            message.content["bad"] = object()
            raise ConsumeLater
        Channel("done", channel_layer=bench.layer).send({})

    bench.work({"in": consumer})
    bench.layer.send("in", {"n": 1})
    bench.layer.send("in", {"n": 2})
    bench.take("done")

    (text,) = [one for one in caplog.messages if "ConsumeLater" in one]
    assert "cannot go back to 'in', so the message is dropped. The message cannot be sent: at ['bad']" in text


def test_deny_connection_closes_after_what_was_sent_b17(bench: Bench) -> None:
    def connect(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"text": "before"})
        raise DenyConnection

    bench.work({"websocket.connect": connect})
    bench.layer.send("websocket.connect", {"reply_channel": "replies"})

    assert [bench.take("replies") for _ in range(2)] == [{"text": "before"}, {"close": True}]


def test_deny_connection_elsewhere_is_an_error_and_the_worker_goes_on_b18(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def receive(message: Message) -> None:
        if message["text"] == "deny":
            raise DenyConnection
        assert message.reply_channel is not None
        message.reply_channel.send({"text": message["text"]})

    bench.work({"websocket.receive": receive})
    for text in ("deny", "hello"):
        bench.layer.send("websocket.receive", {"reply_channel": "replies", "text": text})

    assert bench.take("replies") == {"text": "hello"}
    assert any(
        "only a message on 'websocket.connect' has a connection to deny" in one for one in caplog.messages
    )


@pytest.mark.parametrize(("code", "sent"), [(None, True), (1000, 1000), (3000, 3000), (4999, 4999)])
def test_websocket_close_exception_closes_any_websocket_b19(
    bench: Bench, code: int | None, sent: object
) -> None:
    def receive(message: Message) -> None:
        raise WebsocketCloseException(code)

    bench.work({"websocket.receive": receive})
    bench.layer.send("websocket.receive", {"reply_channel": "some.replies", "text": ""})

    assert bench.take("some.replies") == {"close": sent}


def test_a_custom_socket_exception_runs_inside_the_held_sends(bench: Bench) -> None:
    class Busy(ChannelSocketException):
        def run(self, message: Message) -> None:
            assert message.reply_channel is not None
            message.reply_channel.send({"text": "busy"})

    def receive(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"text": "first"})
        raise Busy

    bench.work({"websocket.receive": receive})
    bench.layer.send("websocket.receive", {"reply_channel": "replies"})

    assert [bench.take("replies")["text"] for _ in range(2)] == ["first", "busy"]


def test_a_message_without_a_route_is_logged_and_dropped_b21(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(Table):
        def match(self, message: Message) -> Match | None:
            return None if message.get("skip") else super().match(message)

    events = Recorder()
    bench.layer.router = Picky({"in": lambda message: Channel("out", channel_layer=bench.layer).send({})})
    worker = Worker(bench.layer, events=events)
    bench.workers.append(worker)
    worker.start()
    bench.layer.send("in", {"skip": True})
    bench.layer.send("in", {})
    bench.take("out")

    assert events.calls == ["started", "finished"]
    assert bench.layer.counters.unrouted == 1
    assert (
        "Could not find match for message on 'in'! No route fits it, so it is dropped. Add a route, or a filterless"
        " one behind the others."
    ) in caplog.messages


def test_a_router_that_raises_costs_one_message_b22(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Table):
        def match(self, message: Message) -> Match | None:
            if message.get("poison"):
                raise TypeError("expected str")
            return super().match(message)

    bench.layer.router = Fragile({"in": lambda message: Channel("out", channel_layer=bench.layer).send({})})
    worker = Worker(bench.layer)
    bench.workers.append(worker)
    worker.start()
    bench.layer.send("in", {"poison": True})
    bench.layer.send("in", {})

    assert bench.take("out") == {}
    assert "The router failed on a message on 'in'; it is dropped. Mend the router." in caplog.messages


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_system_exit_stops_the_worker_gracefully_b23(bench: Bench, error: type[BaseException]) -> None:
    def consumer(message: Message) -> None:
        Channel("out", channel_layer=bench.layer).send({"n": message["n"]})
        if message["n"] == 1:
            raise error

    bench.layer.router = Table({"in": consumer})
    worker = Worker(bench.layer)
    for n in (1, 2):
        bench.layer.send("in", {"n": n})
    worker.run()

    assert bench.take("out") == {"n": 1}
    assert bench.layer.receive(["out"]) == (None, None)
    assert bench.layer.receive(["in"]) == ("in", {"n": 2})


def test_filters_are_globs_only_first_then_exclude_b25(bench: Bench) -> None:
    bench.layer.router = Table(
        dict.fromkeys(["http.request", "websocket.connect", "websocket.receive"], print)
    )

    def channels(**options: Any) -> list[str]:
        return Worker(bench.layer, **options).channels

    assert channels() == ["http.request", "websocket.connect", "websocket.receive"]
    assert channels(only_channels=[], exclude_channels=[]) == channels()
    assert channels(only_channels=["websocket.*"]) == ["websocket.connect", "websocket.receive"]
    assert channels(only_channels=["websocket.*"], exclude_channels=["*.receive"]) == ["websocket.connect"]
    assert channels(exclude_channels=["WEBSOCKET.*"]) == channels()
    with pytest.raises(ConfigurationError) as caught:
        channels(only_channels=["nothing.*"])
    assert str(caught.value) == (
        "The worker of layer 'default' has nothing to read: of the routed channels ['http.request',"
        " 'websocket.connect', 'websocket.receive'], none is left by only_channels=['nothing.*'] and"
        " exclude_channels=[]. Route a channel or widen the filters."
    )


class Recorder(WorkerEvents):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def worker_ready(self, worker: Worker) -> None:
        self.calls = []

    def consumer_started(self) -> None:
        self.calls.append("started")

    def consumer_finished(self) -> None:
        self.calls.append("finished")

    async def aconsumer_started(self) -> None:
        self.calls.append("async started")

    async def aconsumer_finished(self) -> None:
        self.calls.append("async finished")


def test_callback_then_started_then_consumer_then_finished_then_flush_b26_b27(bench: Bench) -> None:
    events = Recorder()
    order = events.calls

    def callback(channel: str, message: Message) -> None:
        events.calls.append(f"callback {channel}")

    class FlushSeen(Recorder):
        pass

    def consumer(message: Message) -> None:
        events.calls.append("consumer")
        Channel("out", channel_layer=bench.layer).send({})

    bench.work({"in": consumer}, events=events, callback=callback)
    bench.layer.send("in", {})
    bench.take("out")

    assert order == []
    assert events.calls == ["callback in", "started", "consumer", "finished"]


def test_each_thread_says_when_it_has_ended_also_where_that_fails(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    class Ends(WorkerEvents):
        def thread_finished(self) -> None:
            ended.append(threading.current_thread().name)
            raise RuntimeError("cannot close")

    worker = bench.work({"in": lambda message: None}, config=WorkerConfig(threads=2), events=Ends())
    assert ended == []
    worker.stop()

    assert len(set(ended)) == len(ended) == 2
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "The event thread_finished failed; the thread ends all the same."
    ] * 2


async def test_async_consumers_run_at_once_on_one_loop(bench: Bench) -> None:
    both_in = asyncio.Event
    inside = 0
    most = 0
    gate: list[asyncio.Event] = []

    async def consumer(message: Message) -> None:
        nonlocal inside, most
        if not gate:
            gate.append(both_in())
        inside += 1
        most = max(most, inside)
        if inside == 20:
            gate[0].set()
        await gate[0].wait()
        await Channel("out", channel_layer=bench.layer).asend({"n": message["n"]})

    await asyncio.to_thread(bench.work, {"in": consumer})
    for n in range(20):
        await bench.layer.asend("in", {"n": n})
    got = {(await bench.layer.areceive(["out"], timeout=WAIT))[1]["n"] for _ in range(20)}  # type: ignore[index]  # awaited

    assert got == set(range(20))
    assert most == 20


def test_sync_sends_in_an_async_consumer_are_held_too(bench: Bench) -> None:
    async def consumer(message: Message) -> None:
        Channel("out", channel_layer=bench.layer).send({"n": 1})
        await Channel("out", channel_layer=bench.layer).asend({"n": 2})
        assert await bench.layer.areceive(["out"], block=False) == (None, None)

    bench.work({"in": consumer})
    bench.layer.send("in", {})

    assert [bench.take("out")["n"] for _ in range(2)] == [1, 2]


def test_an_async_consumer_on_a_mixed_channel_runs_on_the_thread(bench: Bench) -> None:
    async def asynchronous(message: Message) -> None:
        await asyncio.sleep(0)
        await Channel("out", channel_layer=bench.layer).asend({"thread": threading.current_thread().name})

    class Mixed(Table):
        @property
        def async_channels(self) -> set[str]:
            return set()

    bench.layer.router = Mixed({"in": asynchronous})
    worker = Worker(bench.layer)
    bench.workers.append(worker)
    worker.start()
    bench.layer.send("in", {})
    bench.layer.send("in", {})

    assert {bench.take("out")["thread"] for _ in range(2)} == {"channels-worker-0"}


def test_an_awaitable_from_a_sync_consumer_is_an_error_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        raise AssertionError("nobody awaits this")

    def consumer(message: Message) -> Any:
        Channel("done", channel_layer=bench.layer).send({})
        return work()

    bench.work({"in": consumer})
    bench.layer.send("in", {})
    bench.take("done")

    assert any(
        "is a plain function that returned an awaitable; nobody awaits it, so its work is not done." in one
        for one in caplog.messages
    )


def test_middleware_wraps_once_for_each_consumer_outermost_first(bench: Bench) -> None:
    calls: list[str] = []

    class Named(ConsumerMiddleware):
        def __init__(self, name: str) -> None:
            self.name = name

        def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
            calls.append(f"{self.name} wraps")

            def around(message: Message, **kwargs: Any) -> Any:
                calls.append(f"{self.name} before")
                try:
                    return call(message, **kwargs)
                finally:
                    calls.append(f"{self.name} after")

            return around

    def consumer(message: Message) -> None:
        calls.append("consumer")
        Channel("out", channel_layer=bench.layer).send({})

    bench.work({"in": consumer}, middleware=[Named("outer"), Named("inner")])
    for _ in range(2):
        bench.layer.send("in", {})
        bench.take("out")

    once = ["outer before", "inner before", "consumer", "inner after", "outer after"]
    assert calls == ["inner wraps", "outer wraps", *once, *once]


def test_a_full_channel_at_the_flush_never_stops_the_worker_b6(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(capacity=2)

    def consumer(message: Message) -> None:
        full = Channel("full", channel_layer=bench.layer)
        for n in range(4):
            full.send({"n": n})
        Channel("other", channel_layer=bench.layer).send({})

    bench.work({"in": consumer})
    bench.layer.send("in", {})
    bench.take("other")

    assert [bench.take("full")["n"] for _ in range(4)] == [0, 1, 2, 3]


def test_refused_sends_are_given_up_at_the_retry_time_counted_and_logged(
    make_bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    bench = make_bench(capacity=1)

    def consumer(message: Message) -> None:
        for n in range(3):
            Channel("full", channel_layer=bench.layer).send({"n": n})

    worker = bench.work({"in": consumer}, config=WorkerConfig(send_retry_time=0.1, send_retry_interval=0.01))
    bench.layer.send("in", {})
    wait_until(lambda: bench.layer.counters.dropped == 2)
    assert worker.stop(WAIT)

    assert bench.take("full") == {"n": 0}
    assert (
        "2 messages of a consumer are dropped: no room within 0.1 s; the first was for 'full'. Add readers, or raise"
        " channel_capacity."
    ) in caplog.messages


def test_an_at_least_once_input_whose_sends_find_no_room_is_run_again(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(capacity=1, delivery={"orders": "at-least-once"})
    attempts: list[int] = []

    def consumer(message: Message) -> None:
        attempts.append(message.attempt)
        Channel("full", channel_layer=bench.layer).send({"attempt": message.attempt})

    bench.layer.send("full", {"attempt": 0})
    bench.work({"orders": consumer}, config=WorkerConfig(send_retry_time=0.05, send_retry_interval=0.01))
    bench.layer.send("orders", {})
    wait_until(lambda: len(attempts) >= 2)

    assert bench.take("full") == {"attempt": 0}
    assert bench.take("full")["attempt"] >= 1
    assert attempts[:2] == [1, 2]


def test_a_failing_at_least_once_consumer_is_retried_then_dead_lettered(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(delivery={"orders": "at-least-once"}, max_attempts=3)
    attempts: list[int] = []

    def consumer(message: Message) -> None:
        attempts.append(message.attempt)
        raise ValueError("no such product")

    bench.work({"orders": consumer})
    bench.layer.send("orders", {"id": 7})
    wait_until(lambda: len(bench.backend.dead_letters()) == 1)

    assert attempts == [1, 2, 3]
    (letter,) = bench.backend.dead_letters("orders")
    assert (letter.content, letter.reason, letter.attempt) == ({"id": 7}, "ValueError: no such product", 3)


def test_credit_rides_on_the_last_reply_or_travels_alone(bench: Bench) -> None:
    process = bench.backend.open_process("interface")
    connection = f"websocket.send.{process}!client"

    def consumer(message: Message) -> None:
        if message["text"] == "answer twice":
            assert message.reply_channel is not None
            message.reply_channel.send({"text": 1})
            message.reply_channel.send({"text": 2})
        elif message["text"] == "fail":
            raise RuntimeError("broken")

    bench.work({"websocket.receive": consumer})

    def exchange(text: str, answers: int) -> list[Delivery]:
        content = {"reply_channel": connection, "text": text}
        bench.backend.send_one(Send("websocket.receive", content, {CREDIT: connection}, 10))
        return [bench.deliver(f"websocket.send.{process}!") for _ in range(answers)]

    first, second = exchange("answer twice", 2)
    assert (first.content, CREDITED in first.headers) == ({"text": 1}, False)
    assert (second.content, second.headers[CREDITED]) == ({"text": 2}, "client")
    for text in ("say nothing", "fail"):
        (alone,) = exchange(text, 1)
        assert (alone.content, alone.headers[CREDITED]) == ({}, "client")
        assert FRAME not in alone.headers


def test_the_number_of_a_message_goes_back_with_its_credit(bench: Bench) -> None:
    process = bench.backend.open_process("interface")
    connection = f"websocket.send.{process}!client"

    def consumer(message: Message) -> None:
        if message["text"]:
            assert message.reply_channel is not None
            message.reply_channel.send({"text": message["text"]})

    bench.work({"websocket.receive": consumer})
    for number, text in enumerate(["answered", ""]):
        content = {"reply_channel": connection, "text": text}
        bench.backend.send_one(Send("websocket.receive", content, {CREDIT: connection, FRAME: number}, 10))
        answer = bench.deliver(f"websocket.send.{process}!")
        assert (answer.headers[CREDITED], answer.headers[FRAME]) == ("client", number)


def test_parts_of_a_response_say_which_process_sends_them(bench: Bench) -> None:
    process = bench.backend.open_process("interface")
    reply_channel = f"http.response.{process}!client"
    parts: list[dict[str, Any]] = [
        {"status": 200, "more_content": True},
        {"content": b"a", "more_content": True},
        {"content": b"b", "more_content": False},
    ]

    def consumer(message: Message) -> None:
        assert ResponseSender(message).send_all(parts)

    worker = bench.work({"http.request": consumer})
    bench.backend.send_one(Send("http.request", {"reply_channel": reply_channel}, {}, 10))
    deliveries = [bench.deliver(f"http.response.{process}!") for _ in parts]
    assert [delivery.content for delivery in deliveries] == parts
    assert [delivery.headers.get(PROCESS) for delivery in deliveries] == [
        worker.process,
        worker.process,
        None,
    ]


def test_a_requeued_message_keeps_its_credit_until_it_is_done(bench: Bench) -> None:
    process = bench.backend.open_process("interface")
    connection = f"websocket.send.{process}!client"

    def consumer(message: Message) -> None:
        if message.get("__retries__", 0) < 3:
            raise ConsumeLater
        assert message.reply_channel is not None
        message.reply_channel.send({"retries": message["__retries__"]})

    bench.work({"websocket.receive": consumer})
    bench.backend.send_one(Send("websocket.receive", {"reply_channel": connection}, {CREDIT: connection}, 10))
    delivery = bench.deliver(f"websocket.send.{process}!")

    assert delivery.content == {"retries": 3}
    assert delivery.headers[CREDITED] == "client"
    assert bench.backend.receive_batch([f"websocket.send.{process}!"], limit=1, timeout=0) == []


def test_a_slow_handler_gives_back_what_waits_behind_it(bench: Bench) -> None:
    let_go = threading.Event()

    def consumer(message: Message) -> None:
        if message["n"] == 0:
            assert let_go.wait(WAIT)
        Channel("out", channel_layer=bench.layer).send({"n": message["n"]})

    for n in range(5):
        bench.layer.send("in", {"n": n})
    bench.work({"in": consumer}, config=WorkerConfig(threads=1, prefetch_time=10.0))
    second = Worker(bench.layer)
    second.start()
    bench.workers.append(second)
    try:
        assert sorted(bench.take("out")["n"] for _ in range(4)) == [1, 2, 3, 4]
    finally:
        let_go.set()
    assert bench.take("out") == {"n": 0}


def test_a_graceful_stop_finishes_what_is_in_hand_and_releases_the_rest(bench: Bench) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def consumer(message: Message) -> None:
        begun.set()
        assert let_go.wait(WAIT)
        Channel("out", channel_layer=bench.layer).send({"n": message["n"]})

    for n in range(3):
        bench.layer.send("in", {"n": n})
    worker = bench.work({"in": consumer}, config=WorkerConfig(prefetch_time=10.0, release_after=60.0))
    assert begun.wait(WAIT)
    stopping = threading.Thread(target=worker.stop, args=(WAIT,))
    stopping.start()
    let_go.set()
    stopping.join(WAIT)

    assert not stopping.is_alive()
    assert bench.take("out") == {"n": 0}
    assert [bench.layer.receive(["in"])[1] for _ in range(3)] == [{"n": 1}, {"n": 2}, None]


def test_a_worker_is_listed_while_it_runs(bench: Bench) -> None:
    worker = bench.work({"in": print})
    (info,) = bench.backend.processes()
    assert (info.kind, info.id) == ("worker", worker.process)
    assert info.label.endswith(f":{os.getpid()}")

    worker.stop(WAIT)

    assert bench.backend.processes() == []


def test_sends_to_another_layer_leave_with_the_run(bench: Bench, make_bench: Callable[..., Bench]) -> None:
    other = make_bench()

    def consumer(message: Message) -> None:
        Channel("here", channel_layer=bench.layer).send({})
        Channel("there", channel_layer=other.layer).send({"n": 1})

    bench.work({"in": consumer})
    bench.layer.send("in", {})

    assert bench.take("here") == {}
    assert other.take("there") == {"n": 1}


def test_a_bad_value_is_an_error_at_the_call_inside_the_consumer(bench: Bench) -> None:
    def consumer(message: Message) -> None:
        try:
            Channel("out", channel_layer=bench.layer).send({"bad": object()})
        except InvalidMessageError as error:
            Channel("out", channel_layer=bench.layer).send({"error": str(error)})

    bench.work({"in": consumer})
    bench.layer.send("in", {})

    assert bench.take("out")["error"].startswith("The message cannot be sent: at ['bad'], <object object at")


def test_many_threads_share_the_work_and_nothing_is_lost_or_twice(bench: Bench) -> None:
    def consumer(message: Message) -> None:
        Channel("out", channel_layer=bench.layer).send({"n": message["n"]})

    bench.work({"in": consumer}, config=WorkerConfig(threads=4, send_retry_time=WAIT))
    got: list[int] = []
    for start in range(0, 2000, 50):
        for n in range(start, start + 50):
            bench.layer.send("in", {"n": n})
        got += [bench.take("out")["n"] for _ in range(50)]

    assert sorted(got) == list(range(2000))
