"""Sends that go with a database transaction: written in it by layers that can, or held back until it has committed."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from channels_core import Channel, ChannelFull, ChannelLayer, Group, TransactionError, channel_layers
from channels_core.held import HeldSends, current_held
from channels_core.layers import LayerBackend, Outcome, Send
from channels_layer_memory import MemoryBackend


class Rollback(Exception):
    pass


class LedgerBackend(MemoryBackend):
    """Keeps messages where the caller's data is: here, a list for each thread that a transaction fills."""

    is_transactional = True

    def __init__(self, *, transactional: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.transactional_by_default = transactional
        self._open = threading.local()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        written: list[Send] = []
        self._open.written = written
        try:
            yield
        finally:
            self._open.written = None
        self.send_batch(written)

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        written = getattr(self._open, "written", None)
        if written is None:
            return None
        outcomes = []
        for send in sends:
            is_full = len(written) >= self.capacity_of(send.channel)
            outcomes.append(Outcome.FULL if is_full else Outcome.SENT)
            if not is_full:
                written.append(send)
        return outcomes


class Commits:
    """A commit hook as Django's is: at once without a transaction, else when it commits."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] | None = None
        self.aliases: list[str | None] = []

    def __call__(self, call: Callable[[], None], using: str | None) -> None:
        self.aliases.append(using)
        if self.waiting is None:
            call()
        else:
            self.waiting.append(call)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        waiting: list[Callable[[], None]] = []
        self.waiting = waiting
        try:
            yield
        finally:
            self.waiting = None
        for call in waiting:
            call()


@pytest.fixture
def commits() -> Iterator[Commits]:
    before, channel_layers.commit_hook = channel_layers.commit_hook, Commits()
    yield channel_layers.commit_hook
    channel_layers.commit_hook = before


@pytest.fixture
def memory() -> ChannelLayer:
    return ChannelLayer(MemoryBackend(capacity=2))


@pytest.fixture
def ledger() -> LedgerBackend:
    return LedgerBackend(capacity=3)


@contextmanager
def run() -> Iterator[HeldSends]:
    held = HeldSends()
    token = current_held.set(held)
    try:
        yield held
    finally:
        current_held.reset(token)
        held.close()


def numbers(layer: ChannelLayer, *channels: str) -> list[int]:
    found: list[int] = []
    while (content := layer.receive(channels)[1]) is not None:
        found.append(content["n"])
    return found


# After the commit.


def test_on_commit_leaves_after_the_commit(memory: ChannelLayer, commits: Commits) -> None:
    Group("room", channel_layer=memory).add("chat")
    with commits.transaction():
        Channel("jobs", channel_layer=memory).send({"n": 1}, on_commit=True)
        Group("room", channel_layer=memory).send({"n": 2}, on_commit="reports")
        memory.send("jobs", {"n": 3}, on_commit=True)
        memory.send_group("room", {"n": 4}, on_commit=True)
        assert numbers(memory, "jobs", "chat") == []
    assert numbers(memory, "jobs") == [1, 3]
    assert numbers(memory, "chat") == [2, 4]
    assert commits.aliases == [None, "reports", None, None]


def test_on_commit_leaves_never_after_a_rollback(memory: ChannelLayer, commits: Commits) -> None:
    with suppress(Rollback), commits.transaction():
        Channel("jobs", channel_layer=memory).send({"n": 1}, on_commit=True)
        raise Rollback
    assert numbers(memory, "jobs") == []


def test_on_commit_leaves_at_once_without_a_transaction_and_says_what_is_refused(
    memory: ChannelLayer, commits: Commits
) -> None:
    channel = Channel("jobs", channel_layer=memory)
    channel.send({"n": 1}, on_commit=True)
    channel.send({"n": 2}, on_commit=True)
    with pytest.raises(ChannelFull):
        channel.send({"n": 3}, on_commit=True)
    assert numbers(memory, "jobs") == [1, 2]
    assert memory.counters.dropped == 0


def test_on_commit_checks_and_copies_in_the_call(memory: ChannelLayer, commits: Commits) -> None:
    content = {"n": 1}
    with commits.transaction():
        Channel("jobs", channel_layer=memory).send(content, on_commit=True)
        content["n"] = 2
        with pytest.raises(TypeError):
            Channel("jobs", channel_layer=memory).send({"n": object()}, on_commit=True)
    assert numbers(memory, "jobs") == [1]


def test_what_is_refused_after_the_commit_is_logged_and_counted_and_stops_nobody(
    memory: ChannelLayer, commits: Commits, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "channels.layer"), commits.transaction():
        for n in range(4):
            Channel("jobs" if n < 3 else "others", channel_layer=memory).send({"n": n}, on_commit=True)
    assert [record.getMessage() for record in caplog.records] == [
        "A message to 'jobs' on layer 'default' was to be sent after a commit, and is lost. The channel 'jobs' on layer"
        " 'default' holds its capacity of 2 messages; nothing was sent. Start more workers for it, send less, or raise"
        " capacity or channel_capacity in the layer's CONFIG."
    ]
    assert memory.counters.dropped == 1
    assert numbers(memory, "jobs") == [0, 1]
    assert numbers(memory, "others") == [3]


def test_inside_a_consumer_what_a_commit_lets_go_is_held_like_the_rest(
    memory: ChannelLayer, commits: Commits
) -> None:
    with run() as held:
        with commits.transaction():
            Channel("jobs", channel_layer=memory).send({"n": 1}, on_commit=True)
            Channel("jobs", channel_layer=memory).send({"n": 2})
            Channel("now", channel_layer=memory).send({"n": 3}, immediately=True, on_commit=True)
            assert [send.content["n"] for _, send in held.foreign] == [2]
        assert [send.content["n"] for _, send in held.foreign] == [2, 1]
        assert numbers(memory, "now") == [3]


def test_on_commit_without_a_framework_says_what_to_install(memory: ChannelLayer) -> None:
    before, channel_layers.commit_hook = channel_layers.commit_hook, None
    try:
        with pytest.raises(TransactionError) as caught:
            Channel("jobs", channel_layer=memory).send({}, on_commit=True)
    finally:
        channel_layers.commit_hook = before
    assert str(caught.value) == (
        "on_commit for the message to 'jobs': nobody here knows of commits. Put 'channels_django' into INSTALLED_APPS"
        " and call django.setup(), or set channel_layers.commit_hook."
    )


# In the transaction.


def test_transactional_becomes_visible_with_the_commit(ledger: LedgerBackend) -> None:
    layer = ChannelLayer(ledger)
    Group("room", channel_layer=layer).add("chat")
    with ledger.transaction():
        Channel("jobs", channel_layer=layer).send({"n": 1}, transactional=True)
        Group("room", channel_layer=layer).send({"n": 2}, transactional=True)
        Channel("jobs", channel_layer=layer).send({"n": 3})
        assert numbers(layer, "jobs", "chat") == [3]
    assert numbers(layer, "jobs") == [1]
    assert numbers(layer, "chat") == [2]
    with suppress(Rollback), ledger.transaction():
        layer.send("jobs", {"n": 4}, transactional=True)
        layer.send_group("room", {"n": 5}, transactional=True)
        raise Rollback
    assert numbers(layer, "jobs", "chat") == []


def test_transactional_refuses_in_the_call(ledger: LedgerBackend) -> None:
    layer = ChannelLayer(ledger)
    with suppress(ChannelFull), ledger.transaction():
        for n in range(4):
            Channel("jobs", channel_layer=layer).send({"n": n}, transactional=True)
        pytest.fail("the fourth is more than the capacity")
    assert numbers(layer, "jobs") == []


def test_transactional_is_not_held_but_without_a_transaction_it_is(ledger: LedgerBackend) -> None:
    layer = ChannelLayer(ledger)
    with run() as held:
        with ledger.transaction():
            Channel("jobs", channel_layer=layer).send({"n": 1}, transactional=True)
        assert numbers(layer, "jobs") == [1]
        assert held.foreign == []
        Channel("jobs", channel_layer=layer).send({"n": 2}, transactional=True)
        Channel("now", channel_layer=layer).send({"n": 3}, immediately=True, transactional=True)
        assert numbers(layer, "jobs", "now") == [3]
        assert [send.content["n"] for _, send in held.foreign] == [2]


def test_a_layer_may_be_transactional_by_default_and_a_call_may_differ() -> None:
    ledger = LedgerBackend(transactional=True)
    layer = ChannelLayer(ledger)
    Group("room", channel_layer=layer).add("chat")
    with ledger.transaction():
        Channel("jobs", channel_layer=layer).send({"n": 1})
        Group("room", channel_layer=layer).send({"n": 2})
        layer.send("jobs", {"n": 3})
        layer.send_group("room", {"n": 4})
        assert numbers(layer, "jobs", "chat") == []
        Channel("jobs", channel_layer=layer).send({"n": 5}, transactional=False)
        assert numbers(layer, "jobs") == [5]
    assert numbers(layer, "jobs") == [1, 3]
    assert numbers(layer, "chat") == [2, 4]
    layer.send("jobs", {"n": 6})
    assert numbers(layer, "jobs") == [6]


def test_the_default_does_nothing_in_asynchronous_code() -> None:
    layer = ChannelLayer(LedgerBackend(transactional=True))

    async def send() -> None:
        Channel("jobs", channel_layer=layer).send({"n": 1})
        await Channel("jobs", channel_layer=layer).asend({"n": 2})
        await layer.asend("jobs", {"n": 3})

    asyncio.run(send())
    assert numbers(layer, "jobs") == [1, 2, 3]


def test_a_layer_that_is_not_transactional_says_what_can_be_done(memory: ChannelLayer) -> None:
    with pytest.raises(TransactionError) as caught:
        Channel("jobs", channel_layer=memory).send({}, transactional=True)
    assert str(caught.value) == (
        "Layer 'default' (MemoryBackend) cannot write a message in a database transaction. Send with on_commit=True,"
        " which every layer can, or give the layer a BACKEND that keeps its messages in that database."
    )
    with pytest.raises(
        TransactionError, match=r"MemoryBackend cannot write messages in a database transaction\."
    ):
        memory.backend.send_in_transaction([])


def test_a_backend_that_says_it_can_must_write_it() -> None:
    with pytest.raises(TypeError, match="does not write send_in_transaction"):
        type("Half", (MemoryBackend,), {"is_transactional": True})
    assert not LayerBackend.is_transactional


def test_both_at_once_is_neither(ledger: LedgerBackend, commits: Commits) -> None:
    with pytest.raises(TransactionError) as caught:
        Channel("jobs", channel_layer=ChannelLayer(ledger)).send({}, on_commit=True, transactional=True)
    assert str(caught.value) == (
        "The message to 'jobs' is to be written in the transaction and to leave after it: give either"
        " transactional=True or on_commit=True, not both."
    )


@pytest.mark.parametrize("option", ["on_commit", "transactional"])
def test_asynchronous_code_is_told_what_to_write(
    option: str, ledger: LedgerBackend, commits: Commits
) -> None:
    layer = ChannelLayer(ledger)
    asked: dict[str, Any] = {option: True}
    text = (
        f"{option} for the message to 'jobs' on layer 'default' was asked for in asynchronous code, where no database"
        " transaction can be open. Send in the synchronous function that opens it, with"
        f" send(..., {option}=True), and await that function by sync_to_async."
    )

    async def send() -> None:
        for attempt in (
            Channel("jobs", channel_layer=layer).asend({}, **asked),
            Group("jobs", channel_layer=layer).asend({}, **asked),
            layer.asend("jobs", {}, **asked),
            layer.asend_group("jobs", {}, **asked),
        ):
            with pytest.raises(TransactionError) as caught:
                await attempt
            assert str(caught.value) == text
        for call in (Channel("jobs", channel_layer=layer).send, Group("jobs", channel_layer=layer).send):
            with pytest.raises(TransactionError) as caught:
                call({}, **asked)
            assert str(caught.value) == text

    asyncio.run(send())
    assert numbers(layer, "jobs") == []
