"""The event loop that ``async def`` consumers run on, as the configuration names it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable

from channels_core.import_strings import import_target

__all__ = ["loop_factory"]


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loop: ``auto`` is uvloop where it is installed, else asyncio's own; ``asyncio`` is always that; a
    dotted path names a callable that returns a new loop.

    Raises :class:`~channels_core.exceptions.ConfigurationError` for a path that names nothing.
    """
    if choice == "asyncio":
        return asyncio.new_event_loop
    if choice == "auto":
        try:
            made: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
        except ImportError:
            return asyncio.new_event_loop
        return made
    factory: Callable[[], asyncio.AbstractEventLoop] = import_target(
        choice, what="The worker's option event_loop", remedy="Write 'auto', 'asyncio' or such a path."
    )
    return factory
