"""Channel and Group: names that messages are sent to, and the queue of held sends around a consumer."""

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from channels_core import Channel, ChannelLayer, Config, Group, LayerConfig, channel_layers
from channels_core.exceptions import ChannelFull, InvalidMessageError, InvalidNameError, MessageTooLarge
from channels_core.held import HeldSends, current_held
from channels_core.layers import Send
from channels_layer_memory import MemoryBackend


@pytest.fixture
def layer() -> ChannelLayer:
    return ChannelLayer(MemoryBackend(capacity=3))


@pytest.fixture
def default(layer: ChannelLayer) -> Iterator[ChannelLayer]:
    """The layer that names without one go to."""
    before = channel_layers.source
    channel_layers.configure(
        Config(layers={"default": LayerConfig(backend="memory"), "other": LayerConfig(backend="memory")})
    )
    channel_layers.set("default", layer)
    yield layer
    channel_layers.configure(before)


@contextmanager
def run() -> Iterator[HeldSends]:
    """A consumer's run, as far as sends go. What it held leaves when it ends, however it ends."""
    held = HeldSends()
    token = current_held.set(held)
    try:
        yield held
    finally:
        current_held.reset(token)
        for layer, send in leave(held):
            layer.deliver(send)


def leave(held: HeldSends) -> list[tuple[ChannelLayer, Send]]:
    held.close()
    return held.foreign


def numbers(layer: ChannelLayer, *channels: str) -> list[int]:
    found: list[int] = []
    while True:
        _, content = layer.receive(channels)
        if content is None:
            return found
        found.append(content["n"])


# Names and layers.


def test_b10_names_may_be_bytes_and_str_gives_them(layer: ChannelLayer) -> None:
    for kind in (Channel, Group):
        target = kind(b"chat", channel_layer=layer)
        assert (target.name, str(target), repr(target)) == ("chat", "chat", f"{kind.__name__}('chat')")
        target.send({"n": 1})
    assert numbers(layer, "chat") == [1]


def test_b10_a_layer_wins_over_an_alias_unless_it_is_falsy(default: ChannelLayer) -> None:
    other = ChannelLayer(MemoryBackend())
    nothing: Any = None
    assert Channel("a").channel_layer is default
    assert Channel("a", "other").channel_layer is channel_layers["other"]
    assert Channel("a", alias="other").channel_layer is not default
    assert Channel("a", "other", other).channel_layer is other
    assert Group("a", channel_layer=other).channel_layer is other
    assert Group("a", "other", nothing).channel_layer is channel_layers["other"]


def test_constructors_check_nothing_and_sends_do(layer: ChannelLayer) -> None:
    for target in (Channel("not a name", channel_layer=layer), Group("not a name", channel_layer=layer)):
        with pytest.raises(InvalidNameError):
            target.send({})
    with pytest.raises(KeyError, match="No channel layer has the alias 'nowhere'"):
        channel_layers_of("nowhere")


def channel_layers_of(alias: str) -> ChannelLayer:
    before = channel_layers.source
    channel_layers.configure(Config(layers={"default": LayerConfig(backend="memory")}))
    try:
        return Channel("a", alias).channel_layer
    finally:
        channel_layers.configure(before)


# Sends.


def test_b1_outside_a_consumer_sends_go_at_once(layer: ChannelLayer) -> None:
    Channel("chat", channel_layer=layer).send({"n": 1})
    Group("room", channel_layer=layer).add("chat")
    Group("room", channel_layer=layer).send({"n": 2})
    assert numbers(layer, "chat") == [1, 2]


def test_b1_inside_a_consumer_sends_go_when_it_ends(layer: ChannelLayer) -> None:
    with run():
        Channel("chat", channel_layer=layer).send({"n": 1})
        Group("room", channel_layer=layer).add("chat")
        Group("room", channel_layer=layer).send({"n": 2})
        assert numbers(layer, "chat") == []
    assert numbers(layer, "chat") == [1, 2]


def test_b2_immediately_overtakes(layer: ChannelLayer) -> None:
    Group("room", channel_layer=layer).add("chat")
    with run():
        Channel("chat", channel_layer=layer).send({"n": 1})
        Channel("chat", channel_layer=layer).send({"n": 2}, immediately=True)
        Group("room", channel_layer=layer).send({"n": 3}, immediately=True)
        assert numbers(layer, "chat") == [2, 3]
    assert numbers(layer, "chat") == [1]


def test_b3_sends_go_when_the_consumer_raised_too(layer: ChannelLayer) -> None:
    def consumer() -> None:
        with run():
            Channel("chat", channel_layer=layer).send({"n": 1})
            raise SystemExit

    with pytest.raises(SystemExit):
        consumer()
    assert numbers(layer, "chat") == [1]


def test_b4_one_queue_over_all_channels_and_groups(layer: ChannelLayer) -> None:
    other = ChannelLayer(MemoryBackend())
    with run() as held:
        Channel("a", channel_layer=layer).send({"n": 1})
        Group("room", channel_layer=other).send({"n": 2})
        Channel("b", channel_layer=layer).send({"n": 3})
        Channel("a", channel_layer=layer).send({"n": 4})
        current_held.set(None)
        queue = [(layer, send.channel, send.content["n"]) for layer, send in held.foreign]
    assert queue == [(layer, "a", 1), (other, "room", 2), (layer, "b", 3), (layer, "a", 4)]


def test_b5_values_are_taken_at_the_call(layer: ChannelLayer) -> None:
    content: dict[str, Any] = {"n": 1, "list": [1]}
    with run():
        Channel("chat", channel_layer=layer).send(content)
        content["n"] = 2
        content["list"].append(2)
    assert layer.receive(["chat"]) == ("chat", {"n": 1, "list": [1]})


def test_b8_what_cannot_be_sent_is_an_error_at_the_call(layer: ChannelLayer) -> None:
    wrong: list[Any] = [None, [], "text", {"a": object()}, {1: 2}]
    with run() as held:
        for target in (Channel("chat", channel_layer=layer), Group("room", channel_layer=layer)):
            for content in wrong:
                with pytest.raises(InvalidMessageError):
                    target.send(content)
            with pytest.raises(MessageTooLarge):
                target.send({"text": "x" * 2**20})
        assert (held.sends, held.foreign) == ([], [])


def test_a_full_channel_is_the_senders_error_outside_a_consumer_only(layer: ChannelLayer) -> None:
    channel = Channel("chat", channel_layer=layer)
    with run() as held:
        for number in range(5):
            channel.send({"n": number})
        assert len(held.foreign) == 5
        held.foreign.clear()
    for number in range(3):
        channel.send({"n": number})
    with pytest.raises(ChannelFull):
        channel.send({})
    Group("room", channel_layer=layer).add("chat")
    Group("room", channel_layer=layer).send({"n": 9})
    assert layer.counters.group_dropped == 1


def test_b7_a_thread_in_the_runs_context_shares_its_queue(layer: ChannelLayer) -> None:
    def send() -> None:
        Channel("chat", channel_layer=layer).send({"n": 1})

    with run():
        for target in (contextvars.copy_context().run, lambda call: call()):
            thread = threading.Thread(target=target, args=(send,))
            thread.start()
            thread.join()
        assert numbers(layer, "chat") == [1], "a thread without the context sends at once"
    assert numbers(layer, "chat") == [1]


def test_b7_who_outlives_the_run_sends_at_once(layer: ChannelLayer) -> None:
    async def consumer() -> asyncio.Task[None]:
        async def later(begun: asyncio.Event) -> None:
            await begun.wait()
            await Channel("chat", channel_layer=layer).asend({"n": 2})

        begun = asyncio.Event()
        with run():
            task = asyncio.create_task(later(begun))
            await Channel("chat", channel_layer=layer).asend({"n": 1})
            assert numbers(layer, "chat") == []
        begun.set()
        await task
        return task

    asyncio.run(consumer())
    assert numbers(layer, "chat") == [1, 2]


async def test_the_twins_hold_as_the_others_do(layer: ChannelLayer) -> None:
    group = Group("room", channel_layer=layer)
    await group.aadd(Channel("chat", channel_layer=layer))
    assert (await group.achannels(), await group.acount()) == (["chat"], 1)
    with run():
        await Channel("chat", channel_layer=layer).asend({"n": 1})
        await group.asend({"n": 2})
        await group.asend({"n": 3}, immediately=True)
        assert numbers(layer, "chat") == [3]
    assert numbers(layer, "chat") == [1, 2]
    await Channel("chat", channel_layer=layer).asend({"n": 4})
    await group.asend({"n": 5})
    assert numbers(layer, "chat") == [4, 5]
    await group.adiscard("chat")
    assert await group.acount() == 0


def test_headers_may_be_given(layer: ChannelLayer) -> None:
    Group("room", channel_layer=layer).add("chat")
    Channel("chat", channel_layer=layer).send({}, headers={"trace": "x"})
    Group("room", channel_layer=layer).send({}, headers={"trace": "y"})
    found = layer.backend.receive_batch(["chat"], limit=2, timeout=0)
    assert [one.headers["trace"] for one in found] == ["x", "y"]


# Groups.


def test_b9_add_and_discard_are_never_held_and_take_channels_or_names(layer: ChannelLayer) -> None:
    group = Group("room", channel_layer=layer)
    with run():
        group.add("a")
        group.add(Channel("b", channel_layer=layer))
        group.add(Channel("c"))
        group.discard(Channel("c"))
        group.send({"n": 1})
        assert sorted(group.channels()) == ["a", "b"]
    assert numbers(layer, "a") == numbers(layer, "b") == [1]
    assert numbers(layer, "c") == []


def test_repeats_and_strangers_are_nothing(layer: ChannelLayer) -> None:
    group = Group("room", channel_layer=layer)
    group.add("a")
    group.add("a")
    group.discard("b")
    assert (group.channels(), group.count()) == (["a"], 1)
    group.discard("a")
    group.discard("a")
    assert (group.channels(), group.count()) == ([], 0)


def test_members_must_have_names_that_can_be_sent_to(layer: ChannelLayer) -> None:
    wrong: list[Any] = ["a b", "in!", None, 5, b"a"]
    for member in wrong:
        with pytest.raises(InvalidNameError):
            Group("room", channel_layer=layer).add(member)
