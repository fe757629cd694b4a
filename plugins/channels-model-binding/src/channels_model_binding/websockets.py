"""Bindings that speak over WebSockets, in the frames of a demultiplexer's streams."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Final

from channels_django.generic import WebsocketMultiplexer
from channels_model_binding.binding import Binding
from channels_model_binding.inbound import Refused

if TYPE_CHECKING:
    from channels_core.message import Message

__all__ = ["WebsocketBinding", "WebsocketBindingWithMembers"]


_LONGEST_ECHO: Final = 200


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    """A number; what is too large for one is none, since it would leave as ``Infinity``, which browsers refuse."""
    number = float(text)
    return number if isfinite(number) else _no_number(text)


def _short(value: Any) -> Any:
    """What a client sent, to be sent back to it; ``None`` in place of what is neither short nor plain."""
    is_short = not isinstance(value, list | dict) and len(str(value)) <= _LONGEST_ECHO
    return value if is_short else None


class WebsocketBinding(Binding):
    """A binding to the ``stream`` of a demultiplexer.

    Outward, ``{"stream": ..., "payload": {"action": "create", "pk": 7, "data": {...}, "model": "app.model"}}`` goes to
    the groups. Inward, :attr:`consumer` takes payloads ``{"action": ..., "pk": ..., "data": {...}}``. What cannot be
    done is answered on the stream, to who asked: ``{"action": "error", "request": "update", "pk": 7, "code": "invalid",
    "errors": {"title": [...]}, "model": "app.model"}``.
    """

    stream: ClassVar[str | None] = None

    @classmethod
    def is_inbound(cls, message: Message) -> bool:
        """Only frames ask for something; connects and disconnects do not."""
        return message.channel_name == "websocket.receive"

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """The message that carries ``payload`` on ``stream``."""
        return WebsocketMultiplexer.encode(stream, payload)

    def serialize(self, instance: Any, action: str) -> dict[str, Any]:
        """The message that tells of ``action``: with the key, the data and the model's label."""
        payload = {
            "action": action,
            "pk": getattr(instance, self.model._meta.pk.attname),
            "data": self.serialize_data(instance),
            "model": self.model_label,
        }
        return self.encode(self._stream(), payload)

    def _stream(self) -> str:
        if self.stream is None:
            raise ValueError(
                f"The binding {type(self).__module__}.{type(self).__qualname__} has no stream: give it the name that"
                " the demultiplexer has for it, such as stream = 'values'."
            )
        return self.stream

    def deserialize(self, message: Message) -> tuple[str, Any, Any]:
        """The payload's ``action``, ``pk`` and ``data``. Raises :class:`Refused` for what is no payload."""
        try:
            body = json.loads(message.content["text"], parse_constant=_no_number, parse_float=_finite)
        except (KeyError, TypeError, ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("action"), str):
            raise Refused(
                "malformed",
                {"__all__": ['A payload is an object such as {"action": "update", "pk": 7, "data": {...}}.']},
            )
        return body["action"], body.get("pk"), body.get("data")

    def refuse(self, refused: Refused, action: Any, pk: Any) -> None:
        """Answer on the stream; raised where there is nobody to answer."""
        reply_channel = self.message.reply_channel
        if reply_channel is None:
            raise refused
        payload = {
            "action": "error",
            "request": _short(action),
            "pk": _short(pk),
            "code": refused.code,
            "errors": refused.errors,
            "model": self.model_label,
        }
        multiplexer = self.kwargs.get("multiplexer")
        if multiplexer is not None:
            multiplexer.send(payload)
        else:
            reply_channel.send(self.encode(self._stream(), payload))


class WebsocketBindingWithMembers(WebsocketBinding):
    """A :class:`WebsocketBinding` that also sends what is no field: attributes, properties and methods without
    arguments of the instance, named in ``send_members``, with dots for those of what they return.

    ``send_members = ["title_upper", "author.get_full_name"]`` adds the keys ``title_upper`` and
    ``author__get_full_name`` to the data. They only travel outward.
    """

    send_members: ClassVar[Iterable[str]] = ()

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """The fields that travel, and the members."""
        data = super().serialize_data(instance)
        for path in self.send_members:
            member = instance
            for name in path.split("."):
                member = getattr(member, name)
                if callable(member):
                    member = member()
            data[path.replace(".", "__")] = member
        return data
