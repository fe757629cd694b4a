"""ChannelLayer: what users hold of a layer; what it checks, raises, and hands out."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_core import ChannelFull, ChannelLayer, Message, MessageTooLarge
from channels_core.exceptions import BlockingCallError, InvalidMessageError, InvalidNameError
from channels_core.headers import CREDIT, CREDITED, FRAME
from channels_core.layers import Delivery, Exchange, Outcome, Send, Turn
from channels_core.routing import Consumer, Match, Router
from channels_layer_memory import MemoryBackend


class Far(MemoryBackend):
    """The memory layer, declared to be one whose calls wait."""

    is_waiting = True


@pytest.fixture
def layer() -> ChannelLayer:
    return ChannelLayer(MemoryBackend(capacity=2), alias="reports")


# Sending.


def test_what_is_sent_is_received(layer: ChannelLayer) -> None:
    layer.send("chat", {"text": "hi", "data": (1, b"\xff")})
    assert layer.receive(["other", "chat"]) == ("chat", {"text": "hi", "data": [1, b"\xff"]})
    assert layer.receive(["other", "chat"]) == (None, None)


async def test_the_twins_do_the_same(layer: ChannelLayer) -> None:
    await layer.asend("chat", {"text": "hi"})
    assert await layer.areceive(["chat"]) == ("chat", {"text": "hi"})
    await layer.agroup_add("room", "chat")
    await layer.asend_group("room", {"text": "all"})
    assert await layer.agroup_channels("room") == ["chat"]
    assert await layer.agroup_count("room") == 1
    assert await layer.receive_async(["chat"]) == ("chat", {"text": "all"})
    await layer.agroup_discard("room", "chat")
    assert await layer.agroup_count("room") == 0
    await layer.asend("chat", {})
    await layer.aflush()
    assert await layer.areceive(["chat"], block=False) == (None, None)


def test_b136_the_sender_may_change_what_it_sent(layer: ChannelLayer) -> None:
    content: dict[str, Any] = {"list": [1]}
    layer.send("chat", content)
    content["list"].append(2)
    assert layer.receive(["chat"]) == ("chat", {"list": [1]})


def test_a_sent_message_says_when_it_was_sent(layer: ChannelLayer) -> None:
    before = int(time.time() * 1000)
    send = layer.prepare("chat", {}, {"trace": "x"})
    assert send.headers["trace"] == "x"
    assert isinstance(send.headers["c-at"], int)
    assert before - 1 <= send.headers["c-at"] <= time.time() * 1000 + 1
    group = layer.prepare_group("room", {})
    assert (group.is_group, send.is_group) == (True, False)
    assert set(group.headers) == {"c-at"}


def test_a_full_channel_says_so(layer: ChannelLayer) -> None:
    layer.send("websocket.send.p!abcdefgh", {})
    for _ in range(2):
        layer.send("chat", {})
    with pytest.raises(ChannelFull) as caught:
        layer.send("chat", {})
    assert str(caught.value) == (
        "The channel 'chat' on layer 'reports' holds its capacity of 2 messages; nothing was sent. Start more workers"
        " for it, send less, or raise capacity or channel_capacity in the layer's CONFIG."
    )
    assert layer.ChannelFull is ChannelFull


def test_a_message_over_the_limit_says_so() -> None:
    layer = ChannelLayer(MemoryBackend(max_message_size=1000), alias="reports")
    for send, name in ((layer.send, "chat"), (layer.send_group, "room")):
        send(name, {"text": "x" * 900})
        with pytest.raises(MessageTooLarge) as caught:
            send(name, {"text": "x" * 1000})
        size = int(str(caught.value).split("about ")[1].split()[0])
        assert 1000 < size < 1100
        assert str(caught.value) == (
            f"The message to {name!r} has about {size} bytes; layer 'reports' carries at most 1000. Send a reference to"
            " the data, or raise max_message_size in the layer's CONFIG."
        )
    assert layer.MessageTooLarge is MessageTooLarge


def test_an_engine_that_finds_a_message_too_large_is_believed() -> None:
    class Small(MemoryBackend):
        def send_one(self, send: Send) -> Outcome:
            return Outcome.TOO_LARGE

    with pytest.raises(MessageTooLarge, match="The message to 'chat' has about"):
        ChannelLayer(Small()).send("chat", {})


def test_a_send_to_a_dead_process_is_dropped_and_counted(layer: ChannelLayer) -> None:
    process = layer.backend.open_process("interface")
    layer.backend.close_process(process)
    layer.send(f"websocket.send.{process}!x", {})
    assert layer.counters.gone == 1


def test_names_and_values_are_checked_before_anything_is_sent(layer: ChannelLayer) -> None:
    calls: list[tuple[Callable[..., Any], type[Exception]]] = [
        (lambda: layer.send("a b", {}), InvalidNameError),
        (lambda: layer.send("chat!", {}), InvalidNameError),
        (lambda: layer.send_group("chat!x", {}), InvalidNameError),
        (lambda: layer.send("chat", {"a": object()}), InvalidMessageError),
        (lambda: layer.send_group("chat", []), InvalidMessageError),  # type: ignore[arg-type]  # what is tested
        (lambda: layer.prepare("chat", {}, {"x": None}), InvalidMessageError),  # type: ignore[dict-item]  # as above
        (lambda: layer.receive(["a b"]), InvalidNameError),
        (lambda: layer.receive(["chat!x"]), InvalidNameError),
        (lambda: layer.group_add("a!b", "chat"), InvalidNameError),
        (lambda: layer.group_add("room", "a b"), InvalidNameError),
        (lambda: layer.group_discard("room", "chat!"), InvalidNameError),
        (lambda: layer.group_channels("a?b"), InvalidNameError),
        (lambda: layer.group_count(""), InvalidNameError),
        (lambda: layer.channel_statistics("chat!x"), InvalidNameError),
    ]
    for call, error in calls:
        with pytest.raises(error):
            call()
    assert layer.backend.statistics() == []
    assert layer.backend.groups() == {}


# Receiving.


def test_b140_no_channels_is_nothing(layer: ChannelLayer) -> None:
    assert layer.receive([]) == (None, None)
    assert layer.receive([], block=True) == (None, None)


def test_channels_to_receive_from_are_a_list(layer: ChannelLayer) -> None:
    with pytest.raises(InvalidNameError) as caught:
        layer.receive("chat")
    assert (
        str(caught.value) == "Channels to receive from come in a list: write ['chat'] where you wrote 'chat'."
    )


def test_b129_a_prefix_gives_back_the_full_name(layer: ChannelLayer) -> None:
    layer.send("websocket.send.p!abc", {"n": 1})
    assert layer.receive(["websocket.send.p!"]) == ("websocket.send.p!abc", {"n": 1})


def test_a_broadcast_is_handed_out_member_by_member(layer: ChannelLayer) -> None:
    for local in "abc":
        layer.group_add("room", f"websocket.send.p!{local}")
    layer.send_group("room", {"list": []})
    layer.send("websocket.send.p!a", {"list": ["later"]})
    received = [layer.receive(["websocket.send.p!"]) for _ in range(5)]
    names = [name for name, _ in received]
    assert sorted(names[:3], key=str) == [f"websocket.send.p!{local}" for local in "abc"]
    assert names[3:] == ["websocket.send.p!a", None]
    contents = [content for _, content in received[:3]]
    assert contents == [{"list": []}] * 3
    contents[0]["list"].append("mine")  # type: ignore[index]  # it is not None, as the line above says
    assert contents[1:] == [{"list": []}] * 2


async def test_a_broadcast_is_handed_out_to_either_view(layer: ChannelLayer) -> None:
    for local in "ab":
        layer.group_add("room", f"in!{local}")
    layer.send_group("room", {})
    first, _ = await layer.areceive(["in!"])
    second, _ = layer.receive(["in!"])
    assert {first, second} == {"in!a", "in!b"}
    layer.send_group("room", {})
    await layer.areceive(["in!"])
    layer.flush()
    assert layer.receive(["in!"]) == (None, None)


def test_what_is_received_is_settled_at_once() -> None:
    now = [0.0]
    layer = ChannelLayer(MemoryBackend(delivery={"jobs": "at-least-once"}, clock=lambda: now[0]))
    layer.send("jobs", {"n": 1})
    layer.send("jobs", {"n": 2})
    assert layer.receive(["jobs"]) == ("jobs", {"n": 1})
    assert asyncio.run(layer.areceive(["jobs"])) == ("jobs", {"n": 2})
    now[0] += 1000
    assert layer.receive(["jobs"]) == (None, None)
    assert layer.backend.dead_letters() == []


def test_a_receive_may_wait(layer: ChannelLayer) -> None:
    threading.Timer(0.05, layer.send, ("chat", {"n": 1})).start()
    assert layer.receive(["chat"], block=True, timeout=20) == ("chat", {"n": 1})
    started = time.monotonic()
    assert layer.receive_many(["chat"], block=True, timeout=0.05) == (None, None)
    assert time.monotonic() - started >= 0.045


def test_new_channels_are_made_for_either_mark(layer: ChannelLayer) -> None:
    for pattern in ("http.body?", "reply.p!"):
        one, other = layer.new_channel(pattern), layer.new_channel(pattern)
        assert one != other
        assert one.startswith(pattern)
        assert len(one) == len(pattern) + 26
        layer.send(one, {})


def test_credit_of_expired_messages_comes_back() -> None:
    now = [0.0]
    backend = MemoryBackend(clock=lambda: now[0])
    layer = ChannelLayer(backend)
    backend.send_one(layer.prepare("chat", {}, {CREDIT: "in!x", FRAME: 7}))
    backend.send_one(layer.prepare("chat", {}))
    now[0] += 61
    assert layer.receive(["chat"]) == (None, None)
    [credit] = backend.receive_batch(["in!"], timeout=0)
    assert (credit.content, credit.headers, credit.locals) == ({}, {CREDITED: "x", FRAME: 7}, ("x",))
    assert layer.counters.expired == 2


# In an event loop.

BLOCKING: list[tuple[str, Callable[[ChannelLayer], Any]]] = [
    ("send", lambda layer: layer.send("chat", {})),
    ("send", lambda layer: layer.send_group("room", {})),
    ("send", lambda layer: layer.deliver(layer.prepare("chat", {}))),
    ("receive", lambda layer: layer.receive(["chat"])),
    ("receive", lambda layer: layer.receive(["chat"], block=True)),
    ("group_add", lambda layer: layer.group_add("room", "chat")),
    ("group_discard", lambda layer: layer.group_discard("room", "chat")),
    ("group_channels", lambda layer: layer.group_channels("room")),
    ("group_count", lambda layer: layer.group_count("room")),
    ("flush", lambda layer: layer.flush()),
]


@pytest.mark.parametrize(
    ("name", "call"), BLOCKING, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_a_call_that_would_stall_the_loop_names_its_twin(
    name: str, call: Callable[[ChannelLayer], Any]
) -> None:
    layer = ChannelLayer(Far(), alias="far")
    with pytest.raises(BlockingCallError) as caught:
        call(layer)
    assert str(caught.value) == (
        f"{name}() on layer 'far' would wait in a thread whose event loop is running, and stall everything on it."
        f" Await a{name}() instead."
    )
    assert hasattr(layer, f"a{name}")


async def test_a_layer_that_never_waits_may_be_called_in_a_loop(layer: ChannelLayer) -> None:
    layer.group_add("room", "chat")
    layer.send_group("room", {"n": 1})
    layer.send("chat", {"n": 2})
    assert layer.receive(["chat"]) == ("chat", {"n": 1})
    layer.flush()
    with pytest.raises(BlockingCallError):
        layer.receive(["chat"], block=True)


# The router, and what else there is.


class Nowhere(Router):
    made = 0

    def __init__(self, routing: object) -> None:
        type(self).made += 1
        self.routing = routing

    @property
    def channels(self) -> set[str]:
        return {"chat"}

    @property
    def async_channels(self) -> set[str]:
        return set()

    def match(self, message: Message) -> Match | None:
        return None


def test_the_router_is_made_once_when_first_looked_at() -> None:
    Nowhere.made = 0
    layer = ChannelLayer(MemoryBackend(), routing=["a route"], make_router=Nowhere)
    assert Nowhere.made == 0
    threads = [threading.Thread(target=lambda: layer.router) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(layer.router, Nowhere)
    assert (layer.router.routing, Nowhere.made) == (["a route"], 1)
    other = Nowhere("by hand")
    layer.router = other
    assert layer.router is other


def test_it_shows_its_options_and_itself() -> None:
    options: dict[str, Any] = {
        "expiry": 5.0,
        "group_expiry": 7.0,
        "capacity": 3,
        "channel_capacity": {"a.*": 9},
    }
    layer = ChannelLayer(MemoryBackend(**options), alias="reports")
    shown = {name: getattr(layer, name) for name in options}
    assert shown == options
    assert repr(layer) == "<ChannelLayer 'reports' on MemoryBackend>"
    assert {"groups", "flush", "statistics"} <= set(layer.extensions)


def test_consumers_are_callables_by_type() -> None:
    def consumer(message: Message) -> None: ...

    typed: Consumer = consumer
    assert callable(typed)
    assert Exchange([], []) == Exchange([], [])
    assert Turn(()).settlement is None
    assert Delivery("a", {}, {}).attempt == 1
