"""Channels, consumers and workers for Django, with the programming model of Channels 1.x.

Importable before Django is set up: what needs Django is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from channels_django.asgi import get_asgi_application
    from channels_django.http import AsgiHandler, AsgiRequest, ViewConsumer

__version__ = "0.1.0"

__all__ = ["AsgiHandler", "AsgiRequest", "ViewConsumer", "get_asgi_application"]

_HOMES: Final = {
    "AsgiHandler": "channels_django.http",
    "AsgiRequest": "channels_django.http",
    "ViewConsumer": "channels_django.http",
    "get_asgi_application": "channels_django.asgi",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
