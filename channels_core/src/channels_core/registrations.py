"""What plugins yield from their hooks: one frozen record type for each kind of plugin.

A record holds import strings (``package.module:attribute``), never the object itself, so that listing the plugins
imports none of what they would bring along. It is resolved when something first asks for its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from channels_core.exceptions import PluginError

__all__ = [
    "API_VERSION",
    "ConsumerMiddlewareRegistration",
    "LayerRegistration",
    "OriginValidatorRegistration",
    "PluginKind",
    "Registration",
    "RouterRegistration",
    "SessionStoreRegistration",
]

API_VERSION: Final = 1
"""Version of the hooks and contracts. A plugin module says ``CHANNELS_API = 1``; without it, 1 is meant."""

PluginKind = Literal["layer", "router", "session store", "origin validator", "consumer middleware"]

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*\Z")
_TARGET: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What every kind has in common.

    ``name`` is what settings say: lower-case words joined by hyphens. ``target`` is the import string. ``summary`` is
    one line for people. Raises :class:`~channels_core.exceptions.PluginError` for a name or target of another shape.
    """

    kind: ClassVar[PluginKind]

    name: str
    target: str
    summary: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise PluginError(
                f"{type(self).__name__}(name={self.name!r}): a name is lower-case words joined by hyphens,"
                " such as 'redis' or 'allowed-hosts'."
            )
        if not isinstance(self.target, str) or not _TARGET.match(self.target):
            raise PluginError(
                f"{type(self).__name__}(name={self.name!r}, target={self.target!r}): a target is an import string"
                " 'package.module:attribute'; give the string, not the object, so that listing plugins imports nothing."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRegistration(Registration):
    """A layer backend. ``target`` is a :class:`~channels_core.layers.LayerBackend` subclass; ``CONFIG`` becomes its
    keyword arguments."""

    kind: ClassVar[PluginKind] = "layer"


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterRegistration(Registration):
    """A router. ``target`` takes the value of ``ROUTING`` and returns a :class:`~channels_core.routing.Router`."""

    kind: ClassVar[PluginKind] = "router"


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStoreRegistration(Registration):
    """A session store. ``target``, called without arguments, returns a
    :class:`~channels_core.sessions.SessionStore`."""

    kind: ClassVar[PluginKind] = "session store"


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginValidatorRegistration(Registration):
    """An origin validator. ``target``, called without arguments, returns an
    :class:`~channels_core.origins.OriginValidator`."""

    kind: ClassVar[PluginKind] = "origin validator"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerMiddlewareRegistration(Registration):
    """A consumer middleware. ``target``, called without arguments, returns a
    :class:`~channels_core.middleware.ConsumerMiddleware`."""

    kind: ClassVar[PluginKind] = "consumer middleware"
