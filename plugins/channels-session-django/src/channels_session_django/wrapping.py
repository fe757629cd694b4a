"""What the decorators share: finding the message, and wrapping plain and ``async def`` consumers alike."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, TypeVar

from channels_core.message import Message
from channels_core.routing import is_async_consumer

__all__ = ["Call", "finish_wrapper", "message_of", "wrap_in_scope"]

Call = TypeVar("Call", bound=Callable[..., Any])


def message_of(args: tuple[Any, ...], consumer: Callable[..., Any], decorator: str) -> Message:
    """The message among the first two positional arguments: a function's first, or a method's after ``self``.

    Raises ``ValueError`` where it is not there.
    """
    for argument in args[:2]:
        if isinstance(argument, Message):
            return argument
    passed = ", ".join(type(argument).__name__ for argument in args) or "nothing"
    raise ValueError(
        f"@{decorator} on {_name(consumer)} was called with ({passed}): the first or second positional argument must be"
        " the message. Put the message first, after self in a method."
    )


def wrap_in_scope(
    consumer: Call,
    decorator: str,
    scope: Callable[[Message], AbstractContextManager[Any]],
    async_scope: Callable[[Message], AbstractAsyncContextManager[Any]],
) -> Call:
    """``consumer`` run inside ``scope(message)``, or inside ``async_scope(message)`` where it is ``async def``."""
    if is_async_consumer(consumer):

        async def in_async_scope(*args: Any, **kwargs: Any) -> Any:
            async with async_scope(message_of(args, consumer, decorator)):
                return await consumer(*args, **kwargs)

        return finish_wrapper(in_async_scope, consumer)

    def in_scope(*args: Any, **kwargs: Any) -> Any:
        with scope(message_of(args, consumer, decorator)):
            return consumer(*args, **kwargs)

    return finish_wrapper(in_scope, consumer)


def finish_wrapper(wrapper: Callable[..., Any], consumer: Call) -> Call:
    """Give ``wrapper`` the name, the documentation and, as it passes everything on, the signature of ``consumer``."""
    named: Any = functools.wraps(consumer)(wrapper)
    # The consumer's own, not that of what it wraps in its turn. Some callables tell nobody what they take.
    with suppress(TypeError, ValueError, NameError):
        named.__signature__ = inspect.signature(consumer, follow_wrapped=False)
    return named  # type: ignore[no-any-return]  # a wrapper of a consumer is as good as the consumer


def _name(consumer: Callable[..., Any]) -> str:
    return getattr(consumer, "__qualname__", None) or repr(consumer)
