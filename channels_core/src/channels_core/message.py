"""Message values: the one normaliser that every layer shares, and the Message that consumers receive.

What a message may carry is settled here, at the call that sends it, so that no codec of any layer ever has to
guess and no receiver ever shares mutable state with the sender.
"""

from __future__ import annotations

import copy
import enum
import sys
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import msgspec

from channels_core.exceptions import InvalidMessageError

if TYPE_CHECKING:
    from channels_core.channel import Channel
    from channels_core.channel_layer import ChannelLayer

__all__ = ["MAX_DEPTH", "Message", "check_headers", "normalise"]

MAX_DEPTH: Final = 64
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_RESERVED: Final = "__asgi_channel__"
_ALLOWED: Final = (
    "A message holds dicts with text keys, lists, text, bytes, integers of 64 bits, finite floats, booleans"
    " and None"
)

_ENTRY: Final = 32
"""Bytes that a key and the type of its value are taken for."""

_packed = msgspec.msgpack.Encoder().encode


class _BadValue(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str | int] = []


def normalise(content: object) -> tuple[dict[str, Any], int]:
    """Check ``content`` and return a copy made of plain types, with its approximate size in bytes.

    Subclasses of allowed types become the plain type (safe strings, enums with a plain base, ordered dicts),
    tuples become lists and lazy translations are forced. The copy shares nothing mutable with ``content``.

    Raises :class:`InvalidMessageError`, naming the key path, for anything no layer could carry: other types
    (datetime, UUID, Decimal, set), NaN and infinities, integers over 64 bits, lone surrogates, keys that are
    not text, nesting deeper than 64, and the reserved key ``__asgi_channel__``.
    """
    if type(content) is dict:
        # Most messages are flat and ASCII: looking at each value and one copy in C will do.
        size = _ENTRY * len(content)
        for key, value in content.items():
            if type(key) is not str or not key.isascii():
                break
            kind = type(value)
            if kind is str:
                if not value.isascii():
                    break
                size += len(value)
            elif kind is bytes:
                size += len(value)
            elif not (value is None or kind is bool or (kind is int and _INT_MIN <= value <= _INT_MAX)):
                break
        else:
            if _RESERVED not in content:
                return content.copy(), size
    return _normalise(content)


def _normalise(content: object) -> tuple[dict[str, Any], int]:
    if not isinstance(content, dict):
        raise InvalidMessageError(
            f"A message is a dict, not {type(content).__name__}: {_shown(content)}. {_ALLOWED}."
        )
    size = _ENTRY * len(content)
    plain: dict[str, Any] = {}
    key: Any = None
    try:
        for key, value in content.items():
            if type(key) is not str:
                key = _key(key)
            elif not key.isascii():
                _utf8_size(key)
            kind = type(value)
            if kind is str:
                size += len(value) if value.isascii() else _utf8_size(value)
                plain[key] = value
            elif kind is bytes:
                size += len(value)
                plain[key] = value
            elif value is None or kind is bool or (kind is int and _INT_MIN <= value <= _INT_MAX):
                plain[key] = value
            else:
                value = plain[key] = _value(value, 2)
                size += len(_packed(value))
    except _BadValue as bad:
        bad.path.append(key)
        raise InvalidMessageError(_describe(bad)) from None
    if _RESERVED in plain:
        raise InvalidMessageError(
            f"The key {_RESERVED!r} is reserved for layers: leave it out of the message."
        )
    return plain, size


def _value(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        if not value.isascii():
            _utf8_size(value)
        return value
    if kind is bytes or kind is bool or value is None:
        return value
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise _BadValue(f"the integer {_shown(value, 30)} does not fit into 64 bits; send it as text")
        return value
    if kind is float:
        if not isfinite(value):
            raise _BadValue(f"the float {value!r} is not finite; send None or text")
        return value
    if kind is list or kind is tuple:
        return _list(value, depth)
    if kind is dict:
        return _dict(value, depth)
    return _plain(value, depth)


def _list(value: Any, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise _BadValue(f"it is nested deeper than {MAX_DEPTH}")
    plain = []
    index = 0
    try:
        for index, item in enumerate(value):
            plain.append(_value(item, depth + 1))
    except _BadValue as bad:
        bad.path.append(index)
        raise
    return plain


def _dict(value: Any, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise _BadValue(f"it is nested deeper than {MAX_DEPTH}")
    plain = {}
    key: Any = None
    try:
        for key, item in value.items():
            if type(key) is not str:
                key = _key(key)
            elif not key.isascii():
                _utf8_size(key)
            plain[key] = _value(item, depth + 1)
    except _BadValue as bad:
        bad.path.append(key)
        raise
    return plain


def _key(key: object) -> str:
    if isinstance(key, str):
        key = str.__str__(key)
        _utf8_size(key)
        return key
    if _is_lazy_text(key):
        return _key(str(key))
    raise _BadValue(f"the key {_shown(key)} is {type(key).__name__}, not text")


def _plain(value: Any, depth: int) -> Any:
    """The slow path: a subclass of an allowed type, a lazy string, or an error."""
    if isinstance(value, str):
        return _value(str.__str__(value), depth)
    if isinstance(value, bytes):
        return b"".join((value,))
    if isinstance(value, int):
        return _value(int.__int__(value), depth)
    if isinstance(value, float):
        return _value(float.__float__(value), depth)
    if isinstance(value, dict):
        return _dict(value, depth)
    if isinstance(value, list | tuple):
        return _list(value, depth)
    if _is_lazy_text(value):
        return _value(str(value), depth)
    remedy = {
        "bytearray": "send bytes(value)",
        "memoryview": "send bytes(value)",
        "datetime": "send value.isoformat()",
        "date": "send value.isoformat()",
        "UUID": "send str(value)",
        "Decimal": "send str(value)",
        "set": "send a list",
        "frozenset": "send a list",
    }.get(type(value).__name__, "turn it into one of these before sending")
    raise _BadValue(f"{_shown(value)} is {type(value).__name__}; {remedy}")


def _utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise _BadValue(f"the text {text!r:.80} has a lone surrogate, which UTF-8 cannot carry") from None


def _is_lazy_text(value: object) -> bool:
    functional = sys.modules.get("django.utils.functional")
    return functional is not None and isinstance(value, functional.Promise)


def _shown(value: object, length: int = 80) -> str:
    """The beginning of the value's ``repr``, also where it has none."""
    try:
        return f"{value!r:.{length}}"
    except Exception as error:  # noqa: BLE001 - a huge integer's, or what a class of the user's own raises
        return f"a value that cannot be shown ({type(error).__name__})"


def _describe(bad: _BadValue) -> str:
    steps = [_shown(step) for step in reversed(bad.path)]
    if len(steps) > 8:
        steps = [*steps[:4], "...", *steps[-3:]]
    path = "".join(f"[{step}]" for step in steps)
    return f"The message cannot be sent: at {path}, {bad.reason}. {_ALLOWED}."


def check_headers(headers: Mapping[str, str | int]) -> dict[str, str | int]:
    """Return a copy of ``headers``: text to text or 64-bit int; names of ours start with ``c-``.

    Raises :class:`InvalidMessageError` for anything else.
    """
    plain: dict[str, str | int] = {}
    for name, value in headers.items():
        good_value = (isinstance(value, str) and _is_encodable(value)) or (
            isinstance(value, int) and not isinstance(value, bool) and _INT_MIN <= value <= _INT_MAX
        )
        if not (isinstance(name, str) and name and name.isascii() and good_value):
            raise InvalidMessageError(
                f"The header {_shown(name)}: {_shown(value)} cannot be sent: a header name is ASCII text, its value"
                " text or an integer of 64 bits. Put anything else into the content."
            )
        plain[str.__str__(name)] = str.__str__(value) if isinstance(value, str) else int.__int__(value)
    return plain


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _NotMade(enum.Enum):
    NOT_MADE = enum.auto()


_NOT_MADE: Final = _NotMade.NOT_MADE
_make_channel: Callable[..., Channel] | None = None


def _channel_class() -> Callable[..., Channel]:
    global _make_channel  # noqa: PLW0603 - channel.py needs this module first; importing in a property costs much
    from channels_core.channel import Channel

    _make_channel = Channel
    return Channel


class Message:
    """What a consumer gets: the content of one message and where it came from.

    Attributes: ``content`` (the dict), ``channel`` (the :class:`Channel` it was received on, or ``None`` for a
    message made by hand), ``reply_channel`` (a :class:`Channel`, or ``None`` where the content has no
    ``reply_channel`` or an empty one), ``channel_layer``, ``headers`` (what travelled beside the content),
    ``attempt`` (1 for a first delivery) and ``channel_name`` (that of ``channel`` as text, for code that is asked
    about every message). Consumers and decorators may hang further attributes on it.

    Behaves like the content dict for ``[]``, ``in``, ``get``, ``keys``, ``values`` and ``items``; it has no
    length and is not iterable.
    """

    attempt: int
    channel_name: str | None
    headers: dict[str, str | int]

    def __init__(
        self,
        content: dict[str, Any],
        channel_name: str | None,
        channel_layer: ChannelLayer | None,
        *,
        headers: dict[str, str | int] | None = None,
        attempt: int = 1,
    ) -> None:
        self.content = content
        self.channel_layer = channel_layer
        self.headers = {} if headers is None else headers
        self.attempt = attempt
        self.channel_name = channel_name

    # Channel objects are made when asked for: most consumers never look at .channel. Properties over class-level
    # defaults do it without a __getattr__, which slows every attribute down, and without touching __dict__, which
    # makes CPython keep the attributes in a separate dict from then on.
    _channel: Channel | _NotMade | None = _NotMade.NOT_MADE
    _reply_channel: Channel | _NotMade | None = _NotMade.NOT_MADE

    @property
    def channel(self) -> Channel | None:
        """The channel the message was received on."""
        channel = self._channel
        if channel is _NOT_MADE:
            name = self.channel_name
            make = _make_channel or _channel_class()
            channel = self._channel = make(name, channel_layer=self.channel_layer) if name else None
        return channel

    @channel.setter
    def channel(self, channel: Channel | None) -> None:
        self._channel = channel

    @property
    def reply_channel(self) -> Channel | None:
        """The channel that answers go to."""
        channel = self._reply_channel
        if channel is _NOT_MADE:
            name = self.content.get("reply_channel")
            make = _make_channel or _channel_class()
            channel = self._reply_channel = make(name, channel_layer=self.channel_layer) if name else None
        return channel

    @reply_channel.setter
    def reply_channel(self, channel: Channel | None) -> None:
        self._reply_channel = channel

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What decorators hang on a message has whatever type they say."""

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.content[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self.content

    __iter__ = None  # without it, Python would fall back to calling __getitem__ with 0, 1, ...

    def keys(self) -> KeysView[str]:
        """The content's keys."""
        return self.content.keys()

    def values(self) -> ValuesView[Any]:
        """The content's values."""
        return self.content.values()

    def items(self) -> ItemsView[str, Any]:
        """The content's pairs."""
        return self.content.items()

    def get(self, key: str, default: Any = None) -> Any:
        """The content's value for ``key``, or ``default``."""
        return self.content.get(key, default)

    def copy(self) -> Message:
        """A message with a deep copy of the content and none of the attributes hung on this one."""
        return type(self)(
            copy.deepcopy(self.content),
            self.channel_name,
            self.channel_layer,
            headers=dict(self.headers),
            attempt=self.attempt,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.channel_name!r} with {sorted(map(str, self.content))}>"
