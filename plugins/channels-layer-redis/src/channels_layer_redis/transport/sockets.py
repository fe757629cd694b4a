"""What both clients do to sockets, and the pauses between their tries."""

from __future__ import annotations

import socket
from typing import Any, Final

from channels_layer_redis.transport.scripts import Command

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "keep_alive", "shortened"]

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
"""Seconds between tries to connect: doubling from the one to the other, spread by chance."""

_SHORT_BLOCK: Final = 200
"""Milliseconds a read may block where nobody is allowed to end it."""


def keep_alive(sock: Any) -> None:
    """Send small writes at once, and let the kernel find out about a peer that is gone within about a minute."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        option = getattr(socket, name, None)
        if option is not None:  # not every system has them
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def shortened(command: Command) -> Command:
    """A blocking read that does not block for long."""
    if "BLOCK" not in command:
        return command
    place = command.index("BLOCK") + 1
    given = int(command[place])
    short = min(given, _SHORT_BLOCK) if given else _SHORT_BLOCK
    return (*command[:place], short, *command[place + 1 :])
