"""The router contract: which consumer gets a message."""

from __future__ import annotations

import abc
import functools
import inspect
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels_core.message import Message

__all__ = ["Consumer", "Match", "Router", "is_async_consumer"]

Consumer = Callable[..., Any]
"""A callable taking one positional argument, the message, and the keyword arguments its route extracted: a function,
plain or ``async def``, or a class. What it returns is ignored."""

Match = tuple[Consumer, dict[str, Any]]


def is_async_consumer(consumer: Consumer) -> bool:
    """Whether calling ``consumer`` gives a coroutine: ``async def`` functions and methods, objects whose ``__call__``
    is one, and ``functools.partial`` of any of these. Worker and routers decide by this alone."""
    call: Any = consumer
    while True:
        if isinstance(call, functools.partial):
            call = call.func
        elif inspect.ismethod(call):
            call = call.__func__
        else:
            break
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


class Router(abc.ABC):
    """Maps messages to consumers.

    A plugin registers a factory that takes the value of ``ROUTING`` and returns a router, raising
    :class:`~channels_core.exceptions.InvalidRouteError` for anything that could never run. A router is built once
    per process, when the first worker needs it, and is then read by many threads at once.
    """

    @property
    @abc.abstractmethod
    def channels(self) -> Set[str]:
        """Every channel this router can handle, as plain text. Workers read it once, when they start."""

    @property
    @abc.abstractmethod
    def async_channels(self) -> Set[str]:
        """Those of :attr:`channels` whose consumers are all ``async def``: a worker reads them on its event loop."""

    @abc.abstractmethod
    def match(self, message: Message) -> Match | None:
        """The consumer for ``message`` and the keyword arguments from its route, or ``None`` where none matches.

        Never changes the message, never copies its content, and never raises for anything a client can put into it:
        a value that cannot be compared is no match.
        """
