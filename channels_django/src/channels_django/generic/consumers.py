"""The base of class-based consumers: the class is the consumer, and each message makes one instance of it.

Whether a class is asynchronous is decided when it is made, by its methods, so that routers and workers can tell without
an instance.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from channels_core.exceptions import ConfigurationError
from channels_core.message import Message
from channels_core.names import prefix_of
from channels_core.routing import is_async_consumer
from channels_session_django import channel_sessions, users

if TYPE_CHECKING:
    from channels_router_regex import RouteClass

__all__ = ["BaseConsumer", "ConsumerType", "Handler"]

Handler = Callable[..., Any]
"""Called with the message, and by name with what the route captured."""

_OURS = "channels_django.generic."


class ConsumerType(abc.ABCMeta):
    """The type of class-based consumers. Decides for each class, when it is made, whether it is asynchronous.

    Raises :class:`~channels_core.exceptions.ConfigurationError` for a class of both kinds: a plain method would stop
    the event loop of an asynchronous consumer, and a plain consumer has no loop to run an ``async def`` method on.
    """

    is_async: bool

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> None:
        super().__init__(name, bases, namespace, **options)
        consumer: Any = cls
        callees: dict[str, Handler] = dict(consumer._callees())
        asynchronous = [label for label, callee in callees.items() if is_async_consumer(callee)]
        plain = [label for label in callees if label not in asynchronous]
        where = f"{cls.__module__}.{cls.__qualname__}"
        if asynchronous and plain:
            raise ConfigurationError(
                f"The consumer {where} cannot run: {', '.join(asynchronous)} is asynchronous and {', '.join(plain)} is"
                " not. Make all of them 'async def', or none."
            )
        for label in ("encode_json", "decode_json"):
            if is_async_consumer(getattr(cls, label, _nothing)):
                raise ConfigurationError(
                    f"The consumer {where} cannot run: {label}() is asynchronous, and is called for its result. Make it"
                    " a plain method."
                )
        groups = getattr(cls, "connection_groups", _nothing)
        if is_async_consumer(groups) and not asynchronous:
            if plain:
                raise ConfigurationError(
                    f"The consumer {where} cannot run: connection_groups() is asynchronous and {', '.join(plain)} is"
                    " not. Make all of them 'async def', or none."
                )
            asynchronous = ["connection_groups"]
        cls.is_async = bool(asynchronous)
        consumer._methods = {}
        cls.__class__ = AsyncConsumerType if asynchronous else ConsumerType


class AsyncConsumerType(ConsumerType):
    """The type of class-based consumers that are asynchronous: calling the class is a coroutine."""

    async def __call__(cls, message: Message, /, **kwargs: Any) -> Any:
        consumer = super().__call__(message, **kwargs)
        await consumer.dispatch(message, **kwargs)
        return consumer


def _nothing() -> None:
    """Stands where a class has no such method."""


class BaseConsumer(metaclass=ConsumerType):
    """A consumer whose instance handles one message, in the method that ``method_mapping`` names for its channel.

    Calling the class runs it: ``Chat(message, **kwargs)`` returns when the message has been handled. Where the methods
    are ``async def``, the class is an asynchronous consumer, and the call is awaited. All methods that handle messages
    have to be of one kind; those of this package are of either.

    ``channel_session`` and ``channel_session_user``, set to true, put the decorators of these names around every
    method.
    """

    method_mapping: ClassVar[Mapping[str, str]] = {}
    """Channel name -> name of the method for its messages."""
    channel_session: ClassVar[bool] = False
    channel_session_user: ClassVar[bool] = False
    is_async: ClassVar[bool]
    """Whether the methods are ``async def``. Never set: it follows from them."""

    _handlers: ClassVar[tuple[str, ...]] = ("dispatch",)
    """Methods, beside those of ``method_mapping``, that are awaited where the class is asynchronous."""
    _methods: ClassVar[dict[object, Handler]]
    """Decorated methods of the class."""

    def __init__(self, message: Message, **kwargs: Any) -> None:
        self.message = message
        self.kwargs = kwargs
        if not self.is_async:
            self.dispatch(message, **kwargs)

    @classmethod
    def channel_names(cls) -> set[str]:
        """The channels whose messages this class handles."""
        return set(cls.method_mapping)

    @classmethod
    def as_route(cls, attrs: Mapping[str, Any] | None = None, **kwargs: Any) -> RouteClass:
        """``route_class`` to this class, with ``kwargs`` as filters; with ``attrs``, to a subclass that has them.

        Raises ``TypeError`` where ``attrs`` is no mapping of attributes.
        """
        from channels_router_regex import route_class

        return route_class(cls._with(attrs) if attrs is not None else cls, **kwargs)

    @classmethod
    def _with(cls, attrs: Mapping[str, Any]) -> type[Self]:
        if not isinstance(attrs, Mapping):
            raise TypeError(
                f"{cls.__name__}.as_route(attrs={attrs!r:.80}): attrs holds attributes of the class by name; write"
                " attrs={'channel_session': True}. Filters are given by name: as_route(path=r'^/chat/')."
            )
        namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **attrs}
        made: Any = ConsumerType(cls.__name__, (cls,), namespace)
        subclass: type[Self] = made
        return subclass

    def dispatch(self, message: Message, **kwargs: Any) -> Any:
        """Run the handler for ``message``."""
        return self.get_handler(message, **kwargs)(message, **kwargs)

    def get_handler(self, message: Message, **kwargs: Any) -> Handler:
        """The method for ``message``, inside the decorators that the attributes ask for.

        Raises ``KeyError`` where ``method_mapping`` does not have the message's channel.
        """
        channel = message.channel_name or ""
        name = self.method_mapping.get(channel) or self.method_mapping.get(prefix_of(channel))
        if name is None:
            raise KeyError(
                f"{type(self).__qualname__} has no method for messages on {channel!r}: method_mapping has"
                f" {', '.join(sorted(self.method_mapping)) or 'nothing'}. Add the channel, or route it elsewhere."
            )
        return partial(self._decorated_method(name), self)

    def _decorated_method(self, name: str) -> Handler:
        """The method, to be called with the instance; decorating costs more than many messages, so it is done once."""
        key = (name, *self._wanted())
        method = self._methods.get(key)
        if method is None:
            method = self._methods[key] = self._decorate(_calling(type(self), name))
        return method

    def _wanted(self) -> tuple[bool, ...]:
        """What :meth:`_decorate` goes by."""
        return bool(self.channel_session), bool(self.channel_session_user)

    def _decorate(self, method: Handler) -> Handler:
        if self.channel_session_user:
            return users.channel_session_user(method)
        return channel_sessions.channel_session(method) if self.channel_session else method

    @classmethod
    def _callees(cls) -> Iterator[tuple[str, Handler]]:
        """What a run of the class calls and, where the class is asynchronous, awaits; of ours nothing, which is of
        either kind."""
        for name in dict.fromkeys((*cls._handlers, *cls.method_mapping.values())):
            owner = next((base for base in cls.__mro__ if name in vars(base)), None)
            if owner is not None and not owner.__module__.startswith(_OURS):
                yield f"{name}()", getattr(cls, name)


def _calling(kind: type[BaseConsumer], name: str) -> Handler:
    """A function that calls the method ``name`` of its first argument: what is decorated, in place of the method."""
    if kind.is_async:

        async def acall(self: BaseConsumer, message: Message, **kwargs: Any) -> Any:
            return await getattr(self, name)(message, **kwargs)

        call: Handler = acall
    else:

        def plain_call(self: BaseConsumer, message: Message, **kwargs: Any) -> Any:
            return getattr(self, name)(message, **kwargs)

        call = plain_call
    call.__name__, call.__qualname__ = name, f"{kind.__qualname__}.{name}"
    return call
