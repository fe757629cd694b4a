"""Routes: which consumer takes which messages, checked when they are written rather than when a message comes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from channels_core.exceptions import InvalidNameError, InvalidRouteError
from channels_core.import_strings import import_target
from channels_core.names import check_receivable, prefix_of
from channels_router_regex.filters import Filter, compile_filters, make_extract

if TYPE_CHECKING:
    from channels_core.message import Message
    from channels_core.routing import Consumer, Match

__all__ = [
    "FlatRoute",
    "Include",
    "Route",
    "RouteClass",
    "include",
    "resolve_routing",
    "route",
    "route_class",
]

_FILTERED: Final = (
    "A consumer is called with the message and, by name, with every group that its filters and those of the includes"
    " around it capture"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatRoute:
    """A consumer under the filters of its route and of all includes around it, outermost first."""

    label: str
    channels: tuple[str, ...]
    consumer: Consumer
    levels: tuple[tuple[Filter, ...], ...]

    def match(self, message: Message) -> Match | None:
        """The consumer and its keyword arguments, or ``None``."""
        name = message.channel_name or ""
        if name not in self.channels and prefix_of(name) not in self.channels:
            return None
        extract = make_extract(self.levels)
        kwargs: dict[str, Any] | None = {} if extract is None else extract(message.content)
        return None if kwargs is None else (self.consumer, kwargs)

    def check_call(self, *, is_whole: bool) -> None:
        """Raise :class:`InvalidRouteError` where the consumer cannot take what it would be called with.

        Unless the route ``is_whole``, an include around it may still add arguments, so none counts as missing.
        """
        try:
            # A wrapper is what gets called, so its own signature counts and not that of what it wraps. One that
            # passes everything on says so by its __signature__.
            signature = inspect.signature(self.consumer, follow_wrapped=False)
        except (TypeError, ValueError, NameError):
            return  # a callable in C that tells nobody what it takes, or annotations that only type checkers resolve
        captured = {
            name: None for level in self.levels for found in level for name in found.pattern.groupindex
        }
        try:
            bind = signature.bind if is_whole else signature.bind_partial
            bind(None, **captured)
            missing = None if is_whole else _second_positional_only(signature)
        except TypeError as exc:
            missing = str(exc)
        if missing is not None:
            names = "".join(f", {name}=..." for name in captured)
            raise InvalidRouteError(
                f"{self.label}: the consumer {name_of(self.consumer)}{signature} cannot be called as"
                f" consumer(message{names}): {missing}. {_FILTERED}. Change its arguments or the filters."
            )


def _second_positional_only(signature: inspect.Signature) -> str | None:
    """A complaint about a required argument that no group can fill, since those are passed by name."""
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            return f"missing a required argument: {parameter.name!r}"
    return None


class Route:
    """Sends messages of some channels to a consumer, if the content matches every filter.

    ``channels`` is a channel name or several; ``consumer`` a callable or the import string of one. A keyword is a
    regular expression for the content's value under that key, anchored at its start only. A key that the message
    lacks, or whose value is neither text nor ASCII bytes, is no match. Named groups become keyword arguments; one
    that took no part in the match arrives as ``None``.

    Routes never change, and may be used by any number of routers and includes.

    Raises :class:`~channels_core.exceptions.InvalidRouteError` for anything that could never run: an import string
    that leads nowhere, a consumer that cannot be called or not with these arguments, a filter that is no regular
    expression or has groups without names, a name that no channel can have.
    """

    def __init__(
        self, channels: str | bytes | Iterable[str | bytes], consumer: Consumer | str, **filters: object
    ):
        label = _call_text("route", [f"{channels!r:.120}", _consumer_text(consumer)], filters)
        self.channels: tuple[str, ...] = _channel_names(label, channels)
        self._flat = _make_flat(label, self.channels, _resolve_consumer(label, consumer), filters)

    @property
    def consumer(self) -> Consumer:
        """The consumer itself, imported where an import string was given."""
        return self._flat.consumer

    def channel_names(self) -> set[str]:
        """The channels whose messages it may take."""
        return set(self.channels)

    def match(self, message: Message) -> Match | None:
        """The consumer and its keyword arguments, or ``None``. A router does the same faster."""
        return self._flat.match(message)

    def flatten(self) -> Iterator[FlatRoute]:
        """Itself, as routers compile it."""
        yield self._flat

    def __repr__(self) -> str:
        return f"<{self._flat.label}>"


class RouteClass(Route):
    """A :class:`Route` to a class-based consumer, which says by ``channel_names()`` what channels it takes.

    ``consumer`` is the class, or its import string; each message makes one instance: ``consumer(message, **kwargs)``.

    Raises :class:`~channels_core.exceptions.InvalidRouteError` for an object without ``channel_names()``, and for
    whatever a :class:`Route` would not take.
    """

    def __init__(self, consumer: Consumer | str, **filters: object):
        label = _call_text("route_class", [_consumer_text(consumer)], filters)
        found = _resolve_consumer(label, consumer)
        names = getattr(found, "channel_names", None)
        if not callable(names):
            raise InvalidRouteError(
                f"{label}: {name_of(found)} has no channel_names(), so nobody knows which channels it takes. Give it"
                " that class method, or name the channels with route(channels, consumer)."
            )
        try:
            given = names()
        except TypeError as exc:
            raise InvalidRouteError(
                f"{label}: {name_of(found)}.channel_names() cannot be called on the class: {exc}. Make it a class"
                " method without arguments."
            ) from exc
        self.channels = _channel_names(label, given)
        self._flat = _make_flat(label, self.channels, found, filters)


class Include:
    """Routes of another table, under further filters.

    ``routing`` is what a router takes: a list, a dict, or the import string of one. What a filter here matches is cut
    off before the included routes see the value, so they are written relative to it; the consumer still gets the
    whole value. Keyword arguments of all levels are merged, and the inner route's win.

    Raises :class:`~channels_core.exceptions.InvalidRouteError` as :class:`Route`.
    """

    def __init__(self, routing: object, **filters: object):
        label = _call_text("include", [_routing_text(routing)], filters)
        outer = compile_filters(label, filters)
        self._label = label
        self._flat = tuple(
            replace(inner, label=f"{inner.label} in {label}", levels=(outer, *inner.levels))
            for entry in resolve_routing(routing, what=label)
            for inner in entry.flatten()
        )
        for flat in self._flat:
            flat.check_call(is_whole=False)

    def channel_names(self) -> set[str]:
        """The channels whose messages the included routes may take."""
        return {channel for flat in self._flat for channel in flat.channels}

    def match(self, message: Message) -> Match | None:
        """The first included route's consumer and keyword arguments, or ``None``. A router does the same faster."""
        return next((found for flat in self._flat if (found := flat.match(message)) is not None), None)

    def flatten(self) -> Iterator[FlatRoute]:
        """The included routes, each under all its filters, in order."""
        yield from self._flat

    def __repr__(self) -> str:
        return f"<{self._label}>"


route = Route
route_class = RouteClass
include = Include


def resolve_routing(routing: object, *, what: str = "ROUTING") -> list[Route | Include]:
    """The routes of a list, of a dict of channel to consumer, or of what an import string names; a new list.

    Raises :class:`~channels_core.exceptions.InvalidRouteError` for anything else; ``what`` begins its text.
    """
    where = what
    if isinstance(routing, str):
        where = f"{what}, {routing!r},"
        routing = import_target(
            routing,
            what=what,
            missing=InvalidRouteError,
            broken=InvalidRouteError,
            remedy="Correct the path.",
        )
    if isinstance(routing, Mapping):
        return [Route(channel, consumer) for channel, consumer in routing.items()]
    if not isinstance(routing, list | tuple):
        raise InvalidRouteError(
            f"{where} is {routing!r:.80} ({type(routing).__name__}): it is a list of routes, a dict of channel names"
            " and consumers, or the import string of one."
        )
    for index, entry in enumerate(routing):
        if not isinstance(entry, Route | Include):
            raise InvalidRouteError(
                f"{where} has {entry!r:.80} ({type(entry).__name__}) at index {index}: every entry is a"
                " route(...), route_class(...) or include(...)."
            )
    return list(routing)


def name_of(found: object) -> str:
    """How error texts call a consumer: by module and qualified name where it has them."""
    name = getattr(found, "__qualname__", None)
    return f"{found.__module__}.{name}" if isinstance(name, str) else f"{found!r:.80}"


def _make_flat(
    label: str, channels: tuple[str, ...], consumer: Consumer, filters: Mapping[str, object]
) -> FlatRoute:
    levels = (compile_filters(label, filters),)
    flat = FlatRoute(label=label, channels=channels, consumer=consumer, levels=levels)
    flat.check_call(is_whole=False)
    return flat


def _resolve_consumer(label: str, consumer: object) -> Callable[..., Any]:
    if isinstance(consumer, str):
        consumer = import_target(
            consumer,
            what=f"{label}: the consumer",
            missing=InvalidRouteError,
            broken=InvalidRouteError,
            remedy="Correct the path.",
        )
    if not callable(consumer):
        raise InvalidRouteError(
            f"{label}: the consumer is {consumer!r:.80} ({type(consumer).__name__}), which cannot be called. A consumer"
            " is a callable taking the message, or the import string of one."
        )
    return consumer


def _channel_names(label: str, channels: object) -> tuple[str, ...]:
    given = [channels] if isinstance(channels, str | bytes) else channels
    if not isinstance(given, Iterable):
        raise InvalidRouteError(
            f"{label}: the channels are {channels!r:.80} ({type(channels).__name__}). Give a channel name or several."
        )
    names: dict[str, None] = {}
    for name in given:
        try:
            text = name.decode("ascii") if isinstance(name, bytes) else name
            names[check_receivable(text)] = None
        except (InvalidNameError, UnicodeDecodeError) as exc:
            raise InvalidRouteError(
                f"{label}: no message can come from channel {name!r:.120}. {exc}"
            ) from exc
    if not names:
        raise InvalidRouteError(f"{label} names no channel, so it can never match. Name at least one.")
    return tuple(names)


def _call_text(name: str, arguments: list[str], filters: Mapping[str, object]) -> str:
    shown = [f"{key}={getattr(given, 'pattern', given)!r:.80}" for key, given in filters.items()]
    return f"{name}({', '.join(arguments + shown)})"


def _consumer_text(consumer: object) -> str:
    return f"{consumer!r:.80}" if isinstance(consumer, str) else name_of(consumer)


def _routing_text(routing: object) -> str:
    return f"{routing!r:.80}" if isinstance(routing, str) else "..."
