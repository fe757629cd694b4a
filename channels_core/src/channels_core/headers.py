"""The message headers that the framework itself writes and reads.

Headers travel beside the content, ``str`` to ``str`` or ``int``; layers carry them unread and consumers see
them only as ``message.headers``. Names beginning with ``c-`` are ours. Between releases headers are only
ever added; one that is not known is kept and ignored.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ALONE",
    "CREDIT",
    "CREDITED",
    "DELAYED",
    "FRAME",
    "PROCESS",
    "RETRIES_KEY",
    "SENT_AT",
    "TRACE",
    "VERSION",
    "WINDOW",
    "WIRE_VERSION",
]

WIRE_VERSION: Final = 1

VERSION: Final = "c-v"
"""Wire version (int). Version 1 is meant where it is missing, and so nobody sends it yet."""
SENT_AT: Final = "c-at"
"""When it was sent: milliseconds since the epoch by the sender's clock (int)."""
CREDIT: Final = "c-credit"
"""The message is under flow control: full name of the connection's reply channel (str)."""
CREDITED: Final = "c-credited"
"""One credit goes back to the connection whose reply channel has this local part (str)."""
DELAYED: Final = "c-delayed"
"""The message waited with a delay server, under this key: one that it had to send twice carries the same (int)."""
FRAME: Final = "c-frame"
"""With ``c-credit``: which message of its connection this is, counted from 0. Goes back with ``c-credited``, so that a
credit which comes late or twice is known for what it is; a credit without it is that of the oldest message (int)."""
PROCESS: Final = "c-process"
"""On the parts of a response that is not complete: the id of the worker process that sends it (str)."""
WINDOW: Final = "c-window"
"""On http.request: how many full chunks of its response may be on their way unacknowledged (int)."""
ALONE: Final = "c-alone"
"""1 where no other message of the connection is under way, and none will be before this one's credit is back: what
an interface server with a window of one can promise, and :func:`enforce_ordering` need not find out (int)."""
TRACE: Final = "c-trace"
"""Reserved for the sender's W3C ``traceparent`` (str): carried like any header, written by nobody yet."""

RETRIES_KEY: Final = "__retries__"
"""Content key that counts ConsumeLater; part of the content since consumers may look at it."""
