"""For decorators of consumers: finding the message, and looking like the consumer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from channels_core.message import Message

__all__ = ["finish_wrapper", "message_among"]

C = TypeVar("C", bound=Callable[..., Any])


def message_among(args: tuple[Any, ...]) -> Message | None:
    """The message among the first two positional arguments: a function's first, or a method's after ``self``."""
    for argument in args[:2]:
        if isinstance(argument, Message):
            return argument
    return None


def finish_wrapper(wrapper: Callable[..., Any], consumer: C) -> C:
    """Give ``wrapper`` the name, the documentation and the signature of ``consumer``; returns it.

    It must pass everything on, for routes hold the consumer's own arguments against what their filters capture.
    """
    named: Any = functools.wraps(consumer)(wrapper)
    # The consumer's own, not that of what it wraps in its turn. Some callables tell nobody what they take.
    with suppress(TypeError, ValueError, NameError):
        named.__signature__ = inspect.signature(consumer, follow_wrapped=False)
    return named  # type: ignore[no-any-return]  # a wrapper of a consumer is as good as the consumer
