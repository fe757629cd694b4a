"""Decorators for consumers: a WebSocket from a foreign page is refused before the consumer sees it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from channels_core.exceptions import DenyConnection
from channels_core.message import Message
from channels_core.routing import is_async_consumer
from channels_core.wrapping import finish_wrapper, message_among
from channels_origin_allowed_hosts.origins import is_named_by_settings

__all__ = ["AllowedHostsOnlyOriginValidator", "BaseOriginValidator", "allowed_hosts_only"]

logger = logging.getLogger("channels.origin")

AnyConsumer = TypeVar("AnyConsumer", bound=Callable[..., Any])


class _Decorator(type):
    """Calling a validator class with a consumer gives a function that checks before the consumer runs.

    A function, rather than the validator with a ``__call__``, becomes a method in a class, and is ``async def``
    where the consumer is, which is how everything else tells the two kinds apart.
    """

    def __call__(cls, func: Callable[..., Any]) -> Callable[..., Any]:
        validator: BaseOriginValidator = super().__call__(func)
        return validator.decorated()


class BaseOriginValidator(metaclass=_Decorator):
    """Base of decorators that look at the ``Origin`` of a ``websocket.connect`` message.

    Subclasses define :meth:`validate_origin` and are used as decorators, on functions and methods, plain and
    ``async def``. The message is the first or second positional argument. Where the header is missing, comes twice, or
    is not approved, the consumer does not run and :class:`~channels_core.exceptions.DenyConnection` is raised, which
    refuses the socket with 403; the logger ``channels.origin`` says so.
    """

    remedy: ClassVar[str] = ""
    """What a refusal's log line tells the site's owner to do."""

    def __init__(self, func: Callable[..., Any]) -> None:
        if inspect.isclass(func) or not callable(func):
            raise TypeError(
                f"{type(self).__name__} decorates functions and methods, not {func!r:.80}: in a class-based consumer,"
                " decorate the method that handles websocket.connect."
            )
        self.func = func

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Type checkers take what the decorator returns for an instance."""

    def get_header(self, message: Message, name: bytes | str) -> bytes | None:
        """The value of a header, or ``None`` where the message has no such header.

        Headers may be a list of pairs or a dict, in text or bytes; the letter case of names makes no difference. What
        comes more than once is joined by commas, which no origin has in it.
        """
        wanted = _as_bytes(name).lower()
        headers = message.content.get("headers")
        pairs: Iterable[Any] = headers.items() if isinstance(headers, Mapping) else headers or ()
        values = [_as_bytes(value) for key, value in pairs if _as_bytes(key).lower() == wanted]
        return b",".join(values) if values else None

    def get_origin(self, message: Message) -> str | None:
        """The ``Origin`` header as text, or ``None`` where there is none."""
        value = self.get_header(message, b"origin")
        return None if value is None else value.decode("latin-1")

    def validate_origin(self, message: Message, origin: str | None) -> bool:
        """Whether a page of ``origin`` may connect; ``None`` where the message has no ``Origin``."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say which origins it allows: define validate_origin(self, message,"
            " origin) in it."
        )

    def decorated(self) -> Callable[..., Any]:
        """The consumer behind the check."""
        func = self.func
        if is_async_consumer(func):

            async def acheck(*args: Any, **kwargs: Any) -> Any:
                self._check(args)
                return await func(*args, **kwargs)

            return finish_wrapper(acheck, func)

        def check(*args: Any, **kwargs: Any) -> Any:
            self._check(args)
            return func(*args, **kwargs)

        return finish_wrapper(check, func)

    def _check(self, args: tuple[Any, ...]) -> None:
        message = message_among(args)
        if message is None:
            raise TypeError(
                f"{type(self).__name__} was called without a message as first or second positional argument: decorate"
                " a consumer taking (message) or a method taking (self, message)."
            )
        origin = self.get_origin(message)
        if not self.validate_origin(message, origin):
            logger.warning("%s", refusal := self._refusal(origin))
            raise DenyConnection(refusal)

    def _refusal(self, origin: str | None) -> str:
        shown = "without an Origin header" if origin is None else f"from origin {origin!r:.120}"
        name = getattr(self.func, "__qualname__", type(self.func).__qualname__)
        validator = f"{type(self).__name__} of {self.func.__module__}.{name}"
        return f"Refused a WebSocket {shown}: {validator} does not allow it. {self.remedy}".rstrip()


def _as_bytes(value: object) -> bytes:
    """A header's name or value as bytes; what can be neither is nothing a header could be."""
    if isinstance(value, bytes):
        return value
    return value.encode("utf-8", "replace") if isinstance(value, str) else b"\0"


class AllowedHostsOnlyOriginValidator(BaseOriginValidator):
    """Approves the origins that :class:`~channels_origin_allowed_hosts.origins.AllowedHosts` allows."""

    remedy = "If such pages may connect, add their host to ALLOWED_HOSTS."

    def validate_origin(self, message: Message, origin: str | None) -> bool:
        """Whether ``ALLOWED_HOSTS`` names the origin's host; never where there is no origin."""
        return origin is not None and is_named_by_settings(origin)


def allowed_hosts_only(consumer: AnyConsumer) -> AnyConsumer:
    """Let a consumer of ``websocket.connect`` run only for pages of hosts in ``ALLOWED_HOSTS``.

    A message whose ``Origin`` is missing, invalid or of another host is refused: ``DenyConnection`` is raised. Works
    on functions and methods, plain and ``async def``, and above or below the session decorators.
    """
    return cast(AnyConsumer, AllowedHostsOnlyOriginValidator(consumer))
