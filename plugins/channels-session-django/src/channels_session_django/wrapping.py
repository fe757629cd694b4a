"""What the decorators share: the error where there is no message, and scopes around consumers of either kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar

from channels_core.message import Message
from channels_core.routing import is_async_consumer
from channels_core.wrapping import finish_wrapper, message_among

__all__ = ["Call", "message_of", "wrap_in_scope"]

Call = TypeVar("Call", bound=Callable[..., Any])


def message_of(args: tuple[Any, ...], consumer: Callable[..., Any], decorator: str) -> Message:
    """The message among the first two positional arguments: a function's first, or a method's after ``self``.

    Raises ``ValueError`` where it is not there.
    """
    message = message_among(args)
    if message is not None:
        return message
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


def _name(consumer: Callable[..., Any]) -> str:
    return getattr(consumer, "__qualname__", None) or repr(consumer)
