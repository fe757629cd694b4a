"""The laws of routers as tests. A router's author writes how a router is made, and runs them::

from channels_core.testing.conformance.routers import RouterConformance
from table_router.router import TableRouter


class TestTableRouter(RouterConformance):
    def make_router(self, consumers):
        return TableRouter(consumers)
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels_core.exceptions import InvalidRouteError
from channels_core.message import Message
from channels_core.routing import Consumer, Router

__all__ = ["RouterConformance"]

_anything_sendable = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip  # the formatter would give each alternative a line


def _sync(message: Message, **kwargs: Any) -> None: ...


def _other(message: Message, **kwargs: Any) -> None: ...


async def _async(message: Message, **kwargs: Any) -> None: ...


class _Consumer:
    def method(self, message: Message, **kwargs: Any) -> None: ...

    async def amethod(self, message: Message, **kwargs: Any) -> None: ...


class _AsyncInstance:
    async def __call__(self, message: Message, **kwargs: Any) -> None: ...


class RouterConformance:
    """Subclass it as ``Test...`` and define :meth:`make_router`; the tests below are inherited.

    A law that a router breaks on purpose is overridden with a strict ``pytest.mark.xfail`` that gives the reason.
    """

    content_keys: ClassVar[Sequence[str]] = ("path", "method", "text", "bytes", "headers", "reply_channel")
    """Keys of messages that the router looks at. Clients get to put arbitrary values under them here."""

    def make_router(self, consumers: Mapping[str, Consumer]) -> Router:
        """A router that gives every message of each channel to that channel's consumer."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how a router is made: define make_router(self, consumers) in it,"
            " returning a router for that mapping of channel name to consumer."
        )

    def make_demanding_router(self) -> Router:
        """A router with the most intricate routes there are: it is asked about arbitrary content. Worth overriding."""
        return self.make_router({"websocket.connect": _sync, "websocket.receive": _async})

    # The tests

    def test_it_is_a_router(self) -> None:
        assert isinstance(self.make_router({"chat": _sync}), Router)

    def test_channels_is_the_set_of_what_it_routes(self) -> None:
        channels = self.make_router({"chat": _sync, "websocket.receive": _other}).channels
        assert isinstance(channels, Set)
        assert channels == {"chat", "websocket.receive"}
        assert {type(name) for name in channels} == {str}

    def test_each_channel_finds_its_consumer(self) -> None:
        consumers = {"chat": _sync, "news": _other, "websocket.receive": _async}
        router = self.make_router(consumers)
        for channel, consumer in consumers.items():
            found = router.match(Message({"text": "hi"}, channel, None))
            assert isinstance(found, tuple)
            assert found[0] == consumer
            assert isinstance(found[1], dict)

    def test_what_it_does_not_route_is_no_match(self) -> None:
        router = self.make_router({"chat": _sync})
        for channel in (
            "news",
            "chat.lobby",
            "Chat",
            "websocket.send.abc!def",
            "http.request.body?abc",
            None,
        ):
            assert router.match(Message({"text": "hi"}, channel, None)) is None, channel

    def test_async_channels_are_those_with_async_consumers(self) -> None:
        consumers: dict[str, Consumer] = {
            "function": _sync,
            "method": _Consumer().method,
            "partial": functools.partial(_sync),
            "async.function": _async,
            "async.method": _Consumer().amethod,
            "async.partial": functools.partial(_async),
            "async.instance": _AsyncInstance(),
        }
        asynchronous = self.make_router(consumers).async_channels
        assert isinstance(asynchronous, Set)
        assert asynchronous == {"async.function", "async.method", "async.partial", "async.instance"}

    def test_the_keyword_arguments_belong_to_the_asker(self) -> None:
        router = self.make_router({"chat": _sync})
        asked = Message({"text": "hi"}, "chat", None)
        first = router.match(asked)
        assert first is not None
        first[1]["left"] = "behind"
        again = router.match(asked)
        assert again is not None
        assert "left" not in again[1]

    def test_no_content_makes_it_raise_or_is_changed(self) -> None:
        router = self.make_demanding_router()
        contents = st.fixed_dictionaries({}, optional=dict.fromkeys(self.content_keys, _anything_sendable))

        @settings(deadline=None, database=None, max_examples=100)
        @given(content=contents, more=st.dictionaries(st.text(), _anything_sendable, max_size=3))
        def ask(content: dict[str, Any], more: dict[str, Any]) -> None:
            for channel in sorted(router.channels):
                asked = Message({**more, **content}, channel, None)
                before = copy.deepcopy(asked.content)
                router.match(asked)
                assert asked.content == before

        ask()

    def test_the_same_question_has_the_same_answer(self) -> None:
        router = self.make_demanding_router()
        for channel in sorted(router.channels):
            asked = Message({"path": "/", "text": "hi"}, channel, None)
            assert router.match(asked) == router.match(asked)

    def test_many_threads_may_ask_at_once(self) -> None:
        consumers = {f"channel.{number}": functools.partial(_sync, number=number) for number in range(8)}
        router = self.make_router(consumers)
        wrong: list[object] = []
        begun = threading.Barrier(len(consumers))

        def ask(channel: str, consumer: Callable[..., Any]) -> None:
            asked = Message({"text": "hi"}, channel, None)
            begun.wait(10)
            for _ in range(500):
                found = router.match(asked)
                if found is None or found[0] is not consumer:
                    wrong.append(found)

        threads = [threading.Thread(target=ask, args=pair) for pair in consumers.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wrong == []

    def test_routers_share_nothing(self) -> None:
        one, two = self.make_router({"chat": _sync}), self.make_router({"news": _other})
        assert (one.channels, two.channels) == ({"chat"}, {"news"})
        assert one.match(Message({}, "news", None)) is None

    def test_what_cannot_be_called_is_refused_when_the_router_is_made(self) -> None:
        unfit: Any
        for unfit in (5, None, ["consumer"]):
            with pytest.raises(InvalidRouteError):
                self.make_router({"chat": unfit})

    def test_what_takes_no_message_is_refused_when_the_router_is_made(self) -> None:
        def takes_nothing() -> None: ...

        def takes_two(message: Message, more: object, /) -> None: ...

        for unfit in (takes_nothing, takes_two):
            with pytest.raises(InvalidRouteError):
                self.make_router({"chat": unfit})
