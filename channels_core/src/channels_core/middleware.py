"""The consumer middleware contract: plain callables around every consumer, built once for each.

Nothing here is on a message's way but the callables that the middleware itself returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

__all__ = ["AsyncConsumerCall", "ConsumerCall", "ConsumerMiddleware", "wrap_consumer"]

ConsumerCall = Callable[..., Any]
"""``call(message, **kwargs)``"""
AsyncConsumerCall = Callable[..., Awaitable[Any]]
"""``await call(message, **kwargs)``"""


class ConsumerMiddleware:
    """Wraps consumers; a plugin registers a factory without arguments that returns one.

    Override one method or both. Each is called once for a consumer, when its first message arrives, and may return
    ``call`` itself to stay out of that consumer's way. ``call`` carries the consumer's ``__wrapped__`` chain, if any.
    """

    def wrap(self, call: ConsumerCall) -> ConsumerCall:
        """A callable taking ``(message, **kwargs)`` that runs around the synchronous ``call``."""
        return call

    def awrap(self, call: AsyncConsumerCall) -> AsyncConsumerCall:
        """An ``async`` callable taking ``(message, **kwargs)`` that runs around the asynchronous ``call``."""
        return call


def wrap_consumer(
    consumer: ConsumerCall, middleware: Sequence[ConsumerMiddleware], *, is_async: bool
) -> ConsumerCall:
    """``consumer`` inside ``middleware``; the first of the sequence is the outermost."""
    call = consumer
    for layer in reversed(middleware):
        call = layer.awrap(call) if is_async else layer.wrap(call)
    return call
