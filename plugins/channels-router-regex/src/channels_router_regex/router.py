"""The router: a table from channel to routes, compiled when it is made, so that a match costs a lookup."""

from __future__ import annotations

import threading
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from channels_core.default_consumers import ASYNC_TWINS, connect_consumer, null_consumer
from channels_core.exceptions import InvalidRouteError
from channels_core.names import prefix_of
from channels_core.routing import Router as RouterContract
from channels_core.routing import is_async_consumer
from channels_router_regex.filters import Extract, make_extract
from channels_router_regex.routes import Include, Route, resolve_routing

if TYPE_CHECKING:
    from channels_core.message import Message
    from channels_core.routing import Consumer, Match

__all__ = ["Router"]

_Candidate = tuple["Consumer", Extract | None]
_Table = dict[str, tuple["Consumer", Extract | None, tuple[_Candidate, ...]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """What ``router.root`` is, for code that looks through the routes of a project."""

    routing: list[Route | Include]
    """A copy: routes are added by :meth:`Router.add_route`."""


class Router(RouterContract):
    """Asks the routes of a message's channel in order and takes the first that matches.

    ``routing`` is a list of routes, a dict of channel name to consumer, or the import string of one. Includes are
    flattened here: a route without filters is a dict lookup, and matching never copies content. Reading is safe from
    any number of threads, also while a route is added: they see the table before or after.

    Raises :class:`~channels_core.exceptions.InvalidRouteError` for what could never run, down to a consumer with a
    required argument that no filter around it captures.
    """

    def __init__(self, routing: object) -> None:
        self._entries = resolve_routing(routing)
        self._defaults: list[Route] = []
        self._lock = threading.Lock()
        self._table: _Table = {}
        self._channels: frozenset[str] = frozenset()
        self._async_channels: frozenset[str] = frozenset()
        self._compile()

    @classmethod
    def resolve_routing(cls, routing: object) -> list[Route | Include]:
        """The routes in whatever form ``ROUTING`` may have, as a new list."""
        return resolve_routing(routing)

    @property
    def channels(self) -> Set[str]:
        """Every channel that some route names."""
        return self._channels

    @property
    def async_channels(self) -> Set[str]:
        """The channels whose routes all lead to ``async def`` consumers."""
        return self._async_channels

    @property
    def root(self) -> Root:
        """The table that this router was made of, as it is now, defaults included."""
        return Root(routing=[*self._entries, *self._defaults])

    def match(self, message: Message) -> Match | None:
        """The first matching route's consumer and a fresh dict of keyword arguments, or ``None``."""
        try:
            consumer, extract, others = self._table[message.channel_name or ""]
        except KeyError:
            name = prefix_of(message.channel_name or "")
            if name not in self._table:
                return None
            consumer, extract, others = self._table[name]
        if extract is None:
            return consumer, {}
        content = message.content
        kwargs = extract(content)
        if kwargs is not None:
            return consumer, kwargs
        for consumer, extract in others:
            if extract is None:
                return consumer, {}
            kwargs = extract(content)
            if kwargs is not None:
                return consumer, kwargs
        return None

    def add_route(self, added: Route | Include) -> None:
        """Add a route behind the others, before the defaults. Workers that already run listen to no new channel.

        Raises :class:`~channels_core.exceptions.InvalidRouteError` as the constructor does.
        """
        if not isinstance(added, Route | Include):
            raise InvalidRouteError(
                f"add_route({added!r:.80}): it takes a route(...), route_class(...) or include(...), not"
                f" {type(added).__name__}."
            )
        with self._lock:
            self._entries.append(added)
            try:
                self._compile()
            except InvalidRouteError:
                self._entries.pop()
                raise

    def check_default(self, http_consumer: Consumer | str | None = None) -> None:
        """Put default routes behind all others: WebSockets that no route takes are accepted, their frames ignored.

        ``http_consumer`` takes the ``http.request`` messages that nobody else takes. Calling it again replaces the
        defaults. They keep a channel in :attr:`async_channels` that is there without them.
        """
        defaults = [
            Route("websocket.connect", connect_consumer),
            Route(("websocket.receive", "websocket.disconnect"), null_consumer),
        ]
        if http_consumer is not None:
            defaults.append(Route("http.request", http_consumer))
        with self._lock:
            self._defaults = defaults
            self._compile()

    def _compile(self) -> None:
        flat = [found for entry in self._entries for found in entry.flatten()]
        table: dict[str, list[_Candidate]] = {}
        for found in flat:
            found.check_call(is_whole=True)
            entry = (found.consumer, make_extract(found.levels))
            for channel in found.channels:
                table.setdefault(channel, []).append(entry)
        asynchronous = {
            channel
            for channel, entries in table.items()
            if all(is_async_consumer(consumer) for consumer, _ in entries)
        }
        for default in self._defaults:
            for channel in default.channels:
                consumer = default.consumer
                if channel in asynchronous:
                    consumer = ASYNC_TWINS.get(consumer, consumer)
                    if not is_async_consumer(consumer):
                        asynchronous.discard(channel)
                elif channel not in table and is_async_consumer(consumer):
                    asynchronous.add(channel)
                table.setdefault(channel, []).append((consumer, None))
        self._channels = frozenset(table)
        self._async_channels = frozenset(asynchronous)
        # The first candidate lies open: for a route without filters, a match is one lookup.
        self._table = {channel: (*entries[0], tuple(entries[1:])) for channel, entries in table.items()}
