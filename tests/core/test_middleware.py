"""Consumer middleware: plain callables around consumers, built once, in the order of the settings."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from channels_core import ConsumeLater, Message
from channels_core.middleware import AsyncConsumerCall, ConsumerCall, ConsumerMiddleware, wrap_consumer


def message() -> Message:
    return Message({"text": "hi"}, "chat", None)


class Named(ConsumerMiddleware):
    """Writes down when it is asked to wrap, when a message comes by, and what came out."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def wrap(self, call: ConsumerCall) -> ConsumerCall:
        self.seen.append(f"wrap {self.name}")

        def wrapped(message: Message, **kwargs: Any) -> Any:
            self.seen.append(f"into {self.name} {kwargs}")
            try:
                returned = call(message, **kwargs)
            except Exception as exc:
                self.seen.append(f"out of {self.name} by {type(exc).__name__}")
                raise
            self.seen.append(f"out of {self.name} with {returned}")
            return returned

        return wrapped

    def awrap(self, call: AsyncConsumerCall) -> AsyncConsumerCall:
        self.seen.append(f"awrap {self.name}")

        async def wrapped(message: Message, **kwargs: Any) -> Any:
            self.seen.append(f"into {self.name} {kwargs}")
            try:
                returned = await call(message, **kwargs)
            except Exception as exc:
                self.seen.append(f"out of {self.name} by {type(exc).__name__}")
                raise
            self.seen.append(f"out of {self.name} with {returned}")
            return returned

        return wrapped


ORDER = [
    "into outer {'room': 'lobby'}",
    "into inner {'room': 'lobby'}",
    "consumer",
    "out of inner with returned",
    "out of outer with returned",
]


def test_the_first_is_the_outermost_and_each_is_asked_once() -> None:
    seen: list[str] = []

    def consumer(message: Message, room: str) -> str:
        seen.append("consumer")
        return "returned"

    call = wrap_consumer(consumer, [Named("outer", seen), Named("inner", seen)], is_async=False)
    assert seen == ["wrap inner", "wrap outer"]
    seen.clear()
    for _ in range(2):
        assert call(message(), room="lobby") == "returned"
    assert seen == ORDER * 2


async def test_async_consumers_have_a_chain_of_their_own() -> None:
    seen: list[str] = []

    async def consumer(message: Message, room: str) -> str:
        seen.append("consumer")
        return "returned"

    call = wrap_consumer(consumer, [Named("outer", seen), Named("inner", seen)], is_async=True)
    assert inspect.iscoroutinefunction(call)
    assert seen == ["awrap inner", "awrap outer"]
    seen.clear()
    for _ in range(2):
        assert await call(message(), room="lobby") == "returned"
    assert seen == ORDER * 2


def test_without_middleware_a_consumer_is_called_itself() -> None:
    def consumer(message: Message) -> None: ...

    async def aconsumer(message: Message) -> None: ...

    assert wrap_consumer(consumer, [], is_async=False) is consumer
    assert wrap_consumer(aconsumer, [], is_async=True) is aconsumer


def test_a_middleware_that_overrides_nothing_stays_out_of_the_way() -> None:
    def consumer(message: Message) -> None: ...

    async def aconsumer(message: Message) -> None: ...

    idle = [ConsumerMiddleware(), ConsumerMiddleware()]
    assert wrap_consumer(consumer, idle, is_async=False) is consumer
    assert wrap_consumer(aconsumer, idle, is_async=True) is aconsumer


def test_a_middleware_may_choose_its_consumers() -> None:
    def marked(message: Message) -> str:
        return "consumer"

    def plain(message: Message) -> str:
        return "consumer"

    class OnlyMarked(ConsumerMiddleware):
        def wrap(self, call: ConsumerCall) -> ConsumerCall:
            return (
                (lambda message, **kwargs: "wrapped") if getattr(call, "__name__", "") == "marked" else call
            )

    assert wrap_consumer(marked, [OnlyMarked()], is_async=False)(message()) == "wrapped"
    assert wrap_consumer(plain, [OnlyMarked()], is_async=False) is plain


@pytest.mark.parametrize("error", [ValueError("wrong"), ConsumeLater()])
async def test_exceptions_and_signals_go_through_it(error: Exception) -> None:
    seen: list[str] = []

    def consumer(message: Message) -> None:
        raise error

    async def aconsumer(message: Message) -> None:
        raise error

    middleware = [Named("outer", seen), Named("inner", seen)]
    with pytest.raises(type(error)) as caught:
        wrap_consumer(consumer, middleware, is_async=False)(message())
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        await wrap_consumer(aconsumer, middleware, is_async=True)(message())
    assert caught.value is error
    name = type(error).__name__
    run = ["into outer {}", "into inner {}", f"out of inner by {name}", f"out of outer by {name}"]
    assert seen == ["wrap inner", "wrap outer", *run, "awrap inner", "awrap outer", *run]


def test_a_middleware_may_answer_instead_of_the_consumer_or_add_arguments() -> None:
    class Gate(ConsumerMiddleware):
        def wrap(self, call: ConsumerCall) -> ConsumerCall:
            def gate(message: Message, **kwargs: Any) -> Any:
                return call(message, **kwargs, user="ann") if message.get("key") == "secret" else "closed"

            return gate

    def consumer(message: Message, user: str) -> str:
        return f"open for {user}"

    call: Callable[..., Any] = wrap_consumer(consumer, [Gate()], is_async=False)
    assert call(Message({}, "chat", None)) == "closed"
    assert call(Message({"key": "secret"}, "chat", None)) == "open for ann"
