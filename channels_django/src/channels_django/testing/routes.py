"""Other routes for the length of a test."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ContextDecorator
from functools import wraps
from inspect import iscoroutinefunction
from itertools import chain
from types import TracebackType
from typing import Any

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, channel_layers
from channels_core.routing import Router

__all__ = ["apply_routes"]


class apply_routes(ContextDecorator):  # noqa: N801 - read as a verb, as Django's override_settings
    """Have layers route by ``routes`` and nothing else: a decorator for tests and a context manager.

    Tests may be ``async def``; for a whole class, use ``enterContext`` in ``setUp``.

    ``routes`` is one route, a list of them, a list of such lists, or what else the layer's router takes. They are
    applied to the default layer, and to those that ``aliases`` names.
    """

    def __init__(self, routes: Any, aliases: Iterable[str] | None = None) -> None:
        self._routes = _flat(routes)
        self._aliases = [DEFAULT_CHANNEL_LAYER]
        self._aliases += [alias for alias in aliases or () if alias != DEFAULT_CHANNEL_LAYER]
        self._before: list[list[tuple[str, Router]]] = []

    def __call__(self, func: Any) -> Any:
        if isinstance(func, type):
            raise TypeError(
                f"@apply_routes stands before the class {func.__qualname__}, whose tests it would hide: write it before"
                " each test, or enter it in setUp() with self.enterContext(apply_routes(...))."
            )
        if not iscoroutinefunction(func):
            return super().__call__(func)

        @wraps(func)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await func(*args, **kwargs)

        return inner

    def __enter__(self) -> None:
        layers = [(alias, channel_layers[alias]) for alias in self._aliases]
        routers = [
            channel_layers.plugins.load("router", channel_layers.config.layers[alias].router)(self._routes)
            for alias in self._aliases
        ]
        self._before.append([(alias, layer.router) for alias, layer in layers])
        for (_, layer), router in zip(layers, routers, strict=True):
            layer.router = router

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for alias, router in self._before.pop():
            channel_layers[alias].router = router


def _flat(routes: Any) -> Any:
    if isinstance(routes, list | tuple):
        if routes and all(isinstance(part, list | tuple) for part in routes):
            return list(chain.from_iterable(routes))
        return list(routes)
    return routes if isinstance(routes, str | dict) else [routes]
