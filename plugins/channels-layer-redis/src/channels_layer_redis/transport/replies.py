"""What comes back for a command, or stands in its place: error replies, and the two ways of having no reply.

::

    TransportError
    ├── CommandError     the server refused this command: it answered with an error
    ├── Unsent           nothing of the command reached a server: safe to repeat
    └── Unanswered       it was written, then no answer came: it may have happened
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

__all__ = ["TRANSIENT", "CommandError", "Reply", "TransportError", "Unanswered", "Unsent"]

Reply: TypeAlias = Any
"""bytes, int, None, a list of replies, or a :class:`TransportError` in the place of the reply that is missing."""

TRANSIENT: Final = frozenset(
    {"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY"},
)
"""Codes of errors that pass by themselves; a command answered so has not run."""

_IN_SCRIPT = re.compile(r"^ERR Error running script .*?: -([A-Z]+) ", re.DOTALL)


class TransportError(Exception):
    """Root of what may stand in the place of a reply."""


class CommandError(TransportError):
    """The server's error reply: ``code`` is its first word (``NOGROUP``), ``text`` the whole line.

    Servers before 7.0 wrap what went wrong inside a script into ``ERR``; ``code`` is then the inner one.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.code = text.partition(" ")[0]
        if self.code == "ERR" and (inner := _IN_SCRIPT.match(text)) is not None:
            self.code = inner[1]


class Unsent(TransportError):
    """Nothing of the command reached a server, or the server said that it did not run: safe to repeat."""


class Unanswered(TransportError):
    """The command was written, then the connection was lost or too slow: whether it ran is not known."""
