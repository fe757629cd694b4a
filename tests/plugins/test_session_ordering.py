"""enforce_ordering: one message of a connection at a time, in order, over any number of workers."""

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_wire import Wire, websocket_scope
from channels_core import Channel, ChannelLayer, ConsumeLater, InterfaceConfig, Message, WorkerConfig
from channels_core.headers import ALONE, CREDIT, CREDITED
from channels_core.interface import InterfaceApplication
from channels_core.layers import Outcome, Send
from channels_core.worker import Worker, WorkerEvents
from channels_layer_memory.layer import MemoryBackend
from channels_router_regex import route
from channels_router_regex.router import Router
from channels_session_django import (
    channel_session,
    channel_session_user,
    enforce_ordering,
    requeue_messages,
    session_for_reply_channel,
    wait_channel_name,
)

pytest_plugins = ["testsite.databases"]

REPLY = "websocket.send.abc!def"
WAIT_CHANNEL = "__wait__.websocket.send.abc?def"
NEXT = "__channels_next_order"
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _database(file_database: Path) -> None:
    """Sessions are kept in a database of their own."""


@pytest.fixture
def layer() -> ChannelLayer:
    return ChannelLayer(MemoryBackend())


class _Closing(WorkerEvents):
    def thread_finished(self) -> None:
        from django.db import connections

        connections.close_all()


class Crew:
    """Workers on a layer, stopped at the end."""

    def __init__(self, layer: ChannelLayer) -> None:
        self.layer = layer
        self._workers: list[Worker] = []

    def work(self, consumer: Any, *, workers: int = 1, threads: int = 1, **options: Any) -> None:
        self.layer.router = Router(
            [
                route(channel, consumer)
                for channel in ("websocket.connect", "websocket.receive", "websocket.disconnect")
            ]
        )
        for _ in range(workers):
            worker = Worker(self.layer, config=WorkerConfig(threads=threads, **options), events=_Closing())
            worker.start()
            self._workers.append(worker)

    def stop(self) -> None:
        stopped = [worker.stop(10) for worker in self._workers]  # each of them, also after one that hung
        assert stopped == [True] * len(stopped)


@pytest.fixture
def crew(layer: ChannelLayer) -> Iterator[Crew]:
    crew = Crew(layer)
    yield crew
    crew.stop()


def make(
    order: Any,
    layer: ChannelLayer | None,
    channel: str = "websocket.receive",
    headers: dict[str, str | int] | None = None,
    **content: Any,
) -> Message:
    return Message({"reply_channel": REPLY, "order": order, **content}, channel, layer, headers=headers)


def recorder(is_async: bool = False) -> tuple[Any, list[int]]:
    ran: list[int] = []

    def record(message: Message) -> None:
        ran.append(message["order"])

    async def arecord(message: Message) -> None:
        ran.append(message["order"])

    return enforce_ordering(arecord if is_async else record), ran


def call(consumer: Any, message: Message) -> Any:
    returned = consumer(message)
    return asyncio.run(returned) if asyncio.iscoroutine(returned) else returned


def waiting(layer: ChannelLayer) -> int:
    return int(layer.channel_statistics(WAIT_CHANNEL)["messages_pending"])


WAYS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@WAYS
def test_b61_an_early_message_waits_and_is_put_back_when_its_turn_has_come(
    layer: ChannelLayer, is_async: bool
) -> None:
    consumer, ran = recorder(is_async)
    call(consumer, make(1, layer, text="hello", headers={"c-trace": "t", CREDIT: REPLY}))
    assert ran == []
    (parked,) = layer.backend.receive_batch([WAIT_CHANNEL], limit=5, timeout=0)
    assert parked.content == {
        "reply_channel": REPLY,
        "order": 1,
        "text": "hello",
        "original_channel": "websocket.receive",
    }
    assert {parked.headers["c-trace"], parked.headers[CREDIT]} == {"t", REPLY}
    assert layer.backend.send_one(Send(WAIT_CHANNEL, parked.content, parked.headers, 9)) is Outcome.SENT
    call(consumer, make(0, layer, "websocket.connect"))
    assert ran == [0]
    assert session_for_reply_channel(REPLY)[NEXT] == 1
    (back,) = layer.backend.receive_batch(["websocket.receive"], limit=5, timeout=0)
    assert back.content == {"reply_channel": REPLY, "order": 1, "text": "hello"}
    assert {back.headers["c-trace"], back.headers[CREDIT]} == {"t", REPLY}
    call(consumer, Message(back.content, back.channel, layer))
    assert ran == [0, 1]


def test_b61_what_waits_is_put_back_in_order(layer: ChannelLayer) -> None:
    consumer, _ = recorder()
    for order in (3, 1, 4, 2):
        consumer(make(order, layer))
    assert waiting(layer) == 4
    consumer(make(0, layer, "websocket.connect"))
    back = layer.backend.receive_batch(["websocket.receive"], limit=9, timeout=0)
    assert [delivery.content["order"] for delivery in back] == [1, 2, 3, 4]
    assert waiting(layer) == 0


def test_the_wait_channel_is_the_one_of_the_connection() -> None:
    assert wait_channel_name(REPLY) == WAIT_CHANNEL


@WAYS
def test_messages_of_a_connection_that_come_in_order_never_wait(layer: ChannelLayer, is_async: bool) -> None:
    consumer, ran = recorder(is_async)
    for order in range(5):
        call(consumer, make(order, layer))
    assert ran == [0, 1, 2, 3, 4]
    assert layer.global_statistics()["messages_count"] == 0


@WAYS
def test_b62_the_next_turn_begins_also_when_the_consumer_raises(layer: ChannelLayer, is_async: bool) -> None:
    def fail(message: Message) -> None:
        raise LookupError

    async def afail(message: Message) -> None:
        raise LookupError

    consumer, _ = recorder()
    consumer(make(1, layer))
    with pytest.raises(LookupError):
        call(enforce_ordering(afail if is_async else fail), make(0, layer))
    assert session_for_reply_channel(REPLY)[NEXT] == 1
    assert waiting(layer) == 0


@WAYS
@pytest.mark.parametrize("is_last_run", [False, True])
def test_who_asks_for_a_later_run_keeps_the_turn_until_there_is_none(
    layer: ChannelLayer, is_async: bool, is_last_run: bool
) -> None:
    def later(message: Message) -> None:
        message.channel_session["seen"] = True
        raise ConsumeLater

    async def alater(message: Message) -> None:
        later(message)

    consumer, _ = recorder()
    consumer(make(1, layer))
    message = make(0, layer)
    if is_last_run:
        message.__doomed__ = True  # type: ignore[attr-defined]  # the worker's mark of a last run
    with pytest.raises(ConsumeLater):
        call(enforce_ordering(alater if is_async else later), message)
    session = session_for_reply_channel(REPLY)
    assert session["seen"] is True
    assert session.get(NEXT, 0) == (1 if is_last_run else 0)
    assert waiting(layer) == (0 if is_last_run else 1)


@WAYS
def test_a_repeat_runs_at_once_and_does_not_turn_the_number_back(layer: ChannelLayer, is_async: bool) -> None:
    in_order, _ = recorder()
    for order in range(3):
        in_order(make(order, layer))
    ran = []

    def while_the_next_one_runs(message: Message) -> None:
        ran.append(message["order"])
        message.channel_session["repeat"] = True
        in_order(make(3, layer))

    async def awhile_the_next_one_runs(message: Message) -> None:
        await asyncio.to_thread(in_thread, while_the_next_one_runs, message)

    consumer = enforce_ordering(awhile_the_next_one_runs if is_async else while_the_next_one_runs)
    call(consumer, make(1, layer))
    session = session_for_reply_channel(REPLY)
    assert (ran, session[NEXT], session["repeat"]) == ([1], 4, True)


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    from django.db import connections

    try:
        return function(*args)
    finally:
        connections.close_all()


class _Interrupted(MemoryBackend):
    """Lets something happen just before a message is put on a wait channel."""

    before_waiting: Callable[[], None] | None = None

    def send_one(self, send: Send) -> Outcome:
        if send.channel == WAIT_CHANNEL and self.before_waiting is not None:
            act, self.before_waiting = self.before_waiting, None
            act()
        return super().send_one(send)


@WAYS
def test_a_turn_that_comes_up_while_the_message_is_put_aside_is_not_missed(is_async: bool) -> None:
    backend = _Interrupted()
    layer = ChannelLayer(backend)
    consumer, ran = recorder(is_async)
    first, _ = recorder()
    backend.before_waiting = lambda: threading_run(lambda: first(make(0, layer, "websocket.connect")))
    call(consumer, make(1, layer))
    assert ran == []
    assert waiting(layer) == 0
    (back,) = layer.backend.receive_batch(["websocket.receive"], limit=5, timeout=0)
    assert back.content == {"reply_channel": REPLY, "order": 1}


def threading_run(function: Callable[[], Any]) -> None:
    """In a thread of its own, as on another worker."""
    thread = threading.Thread(target=in_thread, args=(function,))
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@WAYS
def test_an_early_end_of_the_connection_waits_and_the_session_with_it(
    layer: ChannelLayer, is_async: bool
) -> None:
    from django.contrib.sessions.models import Session

    consumer, ran = recorder(is_async)
    call(consumer, make(0, layer, "websocket.connect"))
    call(consumer, make(2, layer, "websocket.disconnect"))
    assert Session.objects.count() == 1
    call(consumer, make(1, layer))
    (back,) = layer.backend.receive_batch(["websocket.disconnect"], limit=5, timeout=0)
    call(consumer, Message(back.content, back.channel, layer))
    assert ran == [0, 1, 2]
    assert Session.objects.count() == 0


@WAYS
def test_a_full_wait_channel_puts_the_message_back(is_async: bool) -> None:
    layer = ChannelLayer(MemoryBackend(capacity=1))
    consumer, _ = recorder(is_async)
    call(consumer, make(1, layer))
    with pytest.raises(ConsumeLater):
        call(consumer, make(2, layer, headers={CREDIT: REPLY}))


@WAYS
def test_messages_wait_under_a_lease_where_the_layer_is_told_to(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    layer = ChannelLayer(
        MemoryBackend(delivery={"__wait__.*": "at-least-once"}, channel_capacity={"websocket.receive": 2})
    )
    consumer, _ = recorder(is_async)
    for order in (3, 2, 1):
        call(consumer, make(order, layer))
    with caplog.at_level(logging.ERROR, "channels.sessions"):
        call(consumer, make(0, layer))
    back = layer.backend.receive_batch(["websocket.receive"], limit=9, timeout=0)
    assert [delivery.content["order"] for delivery in back] == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "'websocket.receive' on layer 'default' has no room for message 3, whose turn it is: it waits on, and with it"
        " its connection. Start more workers, or raise the channel's capacity."
    ]
    assert layer.channel_statistics(WAIT_CHANNEL)["messages_leased"] == 0
    requeue_messages(make(9, layer))
    (third,) = layer.backend.receive_batch(["websocket.receive"], limit=9, timeout=0)
    assert third.content == {"reply_channel": REPLY, "order": 3}


@WAYS
def test_a_message_that_is_alone_needs_no_number(layer: ChannelLayer, is_async: bool) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    consumer, ran = recorder(is_async)
    call(consumer, make(0, layer, "websocket.connect", headers={ALONE: 1}))
    with CaptureQueriesContext(connection) as queries:
        call(consumer, make(7, layer, headers={ALONE: 1}))  # those before it were lost with their worker
        call(consumer, make(8, layer, headers={ALONE: 1}))
    assert ran == [0, 7, 8]
    assert not [query for query in queries if not query["sql"].startswith("SELECT")]
    assert session_for_reply_channel(REPLY).get(NEXT) is None


def test_it_gives_the_channel_session_and_stacks_with_what_builds_on_it(layer: ChannelLayer) -> None:
    @enforce_ordering
    @channel_session_user
    def below(message: Message) -> None:
        message.channel_session["below"] = message.user.is_anonymous

    @channel_session
    @enforce_ordering
    def above(message: Message) -> None:
        message.channel_session["above"] = True

    below(make(0, layer))
    above(make(1, layer))
    session = session_for_reply_channel(REPLY)
    assert (session["below"], session["above"], session[NEXT]) == (True, True, 2)


def test_it_may_be_called_without_arguments(layer: ChannelLayer) -> None:
    ran = []

    @enforce_ordering()
    def consumer(message: Message) -> None:
        ran.append(message["order"])

    @enforce_ordering(slight=False)
    def other(message: Message) -> None:
        ran.append(message["order"])

    consumer(make(0, layer))
    other(make(1, layer))
    assert ran == [0, 1]


def test_b63_slight_ordering_is_refused_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        enforce_ordering(slight=True)
    assert str(caught.value) == (
        "enforce_ordering(slight=True) is not available: it only kept websocket.connect first. Use @enforce_ordering,"
        " which keeps all messages in order."
    )


@pytest.mark.parametrize("order", [None, "first", [1]])
def test_a_message_without_a_usable_order_is_refused(layer: ChannelLayer, order: Any) -> None:
    consumer, ran = recorder()
    with pytest.raises(ValueError) as caught:
        consumer(make(order, layer))
    assert str(caught.value) == (
        f"A message on 'websocket.receive' has the order {order!r}, so its turn cannot be told. Use @enforce_ordering"
        " for websocket.* messages only, whose order counts from 0."
    )
    assert ran == []


def test_an_early_message_made_by_hand_says_what_it_lacks(layer: ChannelLayer) -> None:
    consumer, _ = recorder()
    with pytest.raises(ValueError) as caught:
        consumer(make(1, None))
    assert str(caught.value) == (
        "Message 1 came too early and cannot wait for its turn, for it has no channel layer to come back through. Give"
        " Message(content, channel_name, channel_layer) both."
    )
    with pytest.raises(ValueError, match="for it has no channel to come back through"):
        consumer(Message({"reply_channel": REPLY, "order": 1}, None, layer))
    consumer(make(0, None))


class Ledger:
    """What ran, connection by connection, and whether two messages of one connection ever ran side by side."""

    def __init__(self, connections: int, last: int) -> None:
        self.ran: dict[str, list[int]] = {f"websocket.send.abc!{n}": [] for n in range(connections)}
        self.overlaps: list[str] = []
        self.has_ended = threading.Event()
        self._last = last
        self._open = connections
        self._lock = threading.Lock()
        self._running: set[str] = set()

    def enter(self, message: Message) -> None:
        name = message["reply_channel"]
        with self._lock:
            if name in self._running:
                self.overlaps.append(name)
            self._running.add(name)

    def leave(self, message: Message) -> None:
        name = message["reply_channel"]
        with self._lock:
            self._running.discard(name)
            self.ran[name].append(message["order"])
            if message["order"] == self._last:
                self._open -= 1
                if self._open == 0:
                    self.has_ended.set()


@WAYS
def test_many_workers_keep_the_order_of_many_connections(
    layer: ChannelLayer, crew: Crew, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    connections, frames = 6, 10
    ledger = Ledger(connections, frames + 1)

    def misbehave(message: Message) -> None:
        message.channel_session["n"] = message.channel_session.get("n", 0) + 1
        if message["order"] == 3:
            raise LookupError("on purpose")
        if message["order"] == 5 and "again" not in message.content:
            message.content["again"] = True
            raise ConsumeLater

    @enforce_ordering
    def consume(message: Message) -> None:
        ledger.enter(message)
        try:
            misbehave(message)
        finally:
            ledger.leave(message)

    @enforce_ordering
    async def aconsume(message: Message) -> None:
        ledger.enter(message)
        try:
            await asyncio.sleep(0)
            misbehave(message)
        finally:
            ledger.leave(message)

    messages = []
    for name in ledger.ran:
        messages.append(("websocket.connect", {"reply_channel": name, "order": 0}))
        messages += [("websocket.receive", {"reply_channel": name, "order": n}) for n in range(1, frames + 1)]
        messages.append(("websocket.disconnect", {"reply_channel": name, "order": frames + 1}))
    random.Random(7).shuffle(messages)
    with caplog.at_level(logging.ERROR):
        crew.work(aconsume if is_async else consume, workers=2, threads=4)
        for channel, content in messages:
            layer.send(channel, content)
        assert ledger.has_ended.wait(PATIENCE), f"stuck: {ledger.ran}"
        crew.stop()
    # A message that came back by ConsumeLater ran twice, in its turn.
    expected = sorted([*range(frames + 2), 5])
    assert ledger.ran == dict.fromkeys(ledger.ran, expected)
    assert ledger.overlaps == []
    assert {record.exc_info[0] for record in caplog.records if record.exc_info} == {LookupError}
    assert len(caplog.records) == connections
    from django.contrib.sessions.models import Session

    assert Session.objects.count() == 0


@WAYS
def test_a_waiting_message_keeps_its_credit_until_it_has_run(
    layer: ChannelLayer, crew: Crew, is_async: bool
) -> None:
    reply = f"websocket.send.{layer.backend.open_process('interface')}!local"
    prefix = reply[: reply.index("!") + 1]

    def consume(message: Message) -> None:
        Channel(reply, channel_layer=layer).send({"text": str(message["order"])})

    async def aconsume(message: Message) -> None:
        consume(message)

    parked = count_sends(layer.backend, wait_channel_name(reply))
    crew.work(enforce_ordering(aconsume if is_async else consume))

    def send(order: int) -> None:
        content = {"reply_channel": reply, "order": order}
        layer.deliver(layer.prepare("websocket.receive", content, {CREDIT: reply}))

    send(2)
    send(1)
    assert parked.acquire(timeout=PATIENCE)
    assert parked.acquire(timeout=PATIENCE)
    assert layer.backend.receive_batch([prefix], limit=9, timeout=0) == []
    send(0)
    got: list[tuple[Any, Any]] = []
    while len(got) < 3:
        deliveries = layer.backend.receive_batch([prefix], limit=9, timeout=PATIENCE)
        assert deliveries, f"only {got} came"
        got += [(delivery.content.get("text"), delivery.headers.get(CREDITED)) for delivery in deliveries]
    assert got == [("0", "local"), ("1", "local"), ("2", "local")]


@WAYS
@pytest.mark.parametrize("window", [1, 4])
async def test_frames_of_real_connections_keep_their_order_and_give_their_credit_back(
    layer: ChannelLayer, crew: Crew, window: int, is_async: bool
) -> None:
    connections, frames = 3, 25
    ran: dict[str, list[str]] = {}
    numbers: set[bool] = set()
    have_left = threading.Semaphore(0)

    def consume(message: Message) -> None:
        seen = ran.setdefault(message["path"], [])
        seen.append(message.get("text", message.channel_name))
        numbers.add(NEXT in message.channel_session)
        assert message.reply_channel is not None
        if message.channel_name == "websocket.connect":
            message.reply_channel.send({"accept": True})
        elif message.channel_name == "websocket.receive":
            message.reply_channel.send({"text": message["text"]})
        else:
            have_left.release()

    async def aconsume(message: Message) -> None:
        consume(message)

    crew.work(enforce_ordering(aconsume if is_async else consume), workers=2, threads=2)
    application = InterfaceApplication(layer, config=InterfaceConfig(credit_window=window))
    texts = [str(n) for n in range(frames)]
    wires = [
        Wire(application, websocket_scope(f"/{n}")).start(
            {"type": "websocket.connect"},
            *({"type": "websocket.receive", "text": text, "bytes": None} for text in texts),
        )
        for n in range(connections)
    ]
    for wire in wires:
        answers = [await wire.next() for _ in range(frames + 1)]
        assert answers[0]["type"] == "websocket.accept"
        echoed = [answer["text"] for answer in answers[1:]]
        assert (echoed if window == 1 else sorted(echoed, key=int)) == texts
        wire.push(type="websocket.disconnect", code=1000, reason="")
    for wire in wires:
        await wire.ended()
        assert await asyncio.to_thread(have_left.acquire, timeout=PATIENCE)
    await application.aclose()
    await asyncio.to_thread(crew.stop)
    expected = ["websocket.connect", *texts, "websocket.disconnect"]
    assert ran == {f"/{n}": expected for n in range(connections)}
    assert numbers == ({False} if window == 1 else {False, True})

    def rows() -> int:
        from django.contrib.sessions.models import Session

        return Session.objects.count()

    assert await asyncio.to_thread(in_thread, rows) == 0


def count_sends(backend: Any, channel: str) -> threading.Semaphore:
    """Released once for each message that has been put on a channel of the memory backend."""
    sent = threading.Semaphore(0)
    send_one = backend.send_one

    def counted(send: Send) -> Outcome:
        outcome: Outcome = send_one(send)
        if send.channel == channel:
            sent.release()
        return outcome

    backend.send_one = counted
    return sent
