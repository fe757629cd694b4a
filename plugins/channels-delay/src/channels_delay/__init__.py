"""Delayed messages for Django: ``asgi.delay``, the table they wait in, and the server that sends them when due.

Put ``"channels_delay"`` into ``INSTALLED_APPS``, run ``migrate``, and run ``manage.py rundelay`` beside the workers.
Importable before Django is set up: what needs Django is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from channels_delay.models import DelayedMessage
    from channels_delay.orders import DELAY_CHANNEL
    from channels_delay.server import DelayServer, run_until_signalled

__version__ = "0.1.0"

__all__ = ["DELAY_CHANNEL", "DelayServer", "DelayedMessage", "run_until_signalled"]

_HOMES: Final = {
    "DELAY_CHANNEL": "channels_delay.orders",
    "DelayServer": "channels_delay.server",
    "DelayedMessage": "channels_delay.models",
    "run_until_signalled": "channels_delay.server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
