"""One connection's conversation without any input or output: bytes in, replies out, each to the request it is for.

Replies come in the order of the commands, so a queue of the requests that wait is all the state there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis

from channels_layer_redis.transport.replies import CommandError, Reply, Unanswered, Unsent
from channels_layer_redis.transport.scripts import Command

__all__ = ["LARGE", "Conversation", "Disorder", "Request", "Suffices", "segments"]

Suffices = Callable[[Sequence[Reply]], bool]
"""Whether what was answered is enough, so that nobody needs to wait for the last reply."""

LARGE: Final = 65536
"""Bytes from which a command is written by itself: joining it to others would copy it once more."""

_MORE: Final = object()
_pack = hiredis.pack_command
_Push = hiredis.PushNotification


class Disorder(Exception):
    """The server sent what no server sends: the connection can no longer be trusted."""


class Request:
    """Commands that wait for as many replies. ``finished`` is called once, with the request, when it has them all.

    ``is_flawed`` says whether there is a :class:`TransportError` among the replies.
    """

    __slots__ = (
        "commands",
        "expected",
        "finished",
        "is_flawed",
        "link",
        "nearly",
        "packed",
        "replies",
        "waiter",
    )

    def __init__(self, commands: Sequence[Command], finished: Callable[[Request], None]) -> None:
        self.commands = commands
        # bytes are made here, in the caller's frame, so that a value that cannot be packed is the caller's error
        self.packed: list[bytes] = [_pack(command) for command in commands]  # type: ignore[arg-type]  # takes any tuple
        self.expected = len(self.packed)
        self.replies: list[Reply] = []
        self.is_flawed = False
        self.finished = finished
        self.nearly: Callable[[Request], None] | None = None
        """Called once, with the request, when all replies but the last are there."""
        self.waiter: Any = None
        """For whoever made the request: what waits for it."""
        self.link: Any = None
        """For whoever made the request: the connection it has to itself."""

    def fail(self, error: Unsent | Unanswered) -> None:
        """Put ``error`` in the place of each missing reply."""
        self.replies.extend([error] * (self.expected - len(self.replies)))
        self.is_flawed = True
        self.finished(self)


class Conversation:
    """The queue of requests written to one connection, and the parser of what comes back. Not thread-safe."""

    __slots__ = ("_reader", "waiting")

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=CommandError, notEnoughData=_MORE)
        self.waiting: deque[Request] = deque()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what the connection brought and finish the requests it completes.

        Raises :class:`Disorder` for what is not the protocol, and for a reply that nobody asked for.
        """
        reader = self._reader
        waiting = self.waiting
        try:
            reader.feed(data)  # type: ignore[arg-type]  # takes any buffer
            reply = reader.gets()
            while reply is not _MORE:
                kind = reply.__class__
                if kind is not _Push:  # what a server may say unasked in RESP3 is no answer
                    request = waiting[0]
                    replies = request.replies
                    replies.append(reply)
                    if kind is CommandError:
                        request.is_flawed = True
                    missing = request.expected - len(replies)
                    if not missing:
                        waiting.popleft()
                        request.finished(request)
                    elif missing == 1 and request.nearly is not None:
                        request.nearly(request)
                reply = reader.gets()
        except hiredis.ProtocolError as error:
            raise Disorder(f"the server's bytes are not the Redis protocol ({error})") from error
        except IndexError:
            raise Disorder("the server sent a reply that nobody asked for") from None

    def lose(self, error: Unanswered) -> None:
        """The connection is gone: every waiting request ends with what it has, and ``error`` for the rest."""
        while self.waiting:
            self.waiting.popleft().fail(error)


def segments(packed: list[bytes]) -> list[bytes]:
    """Join small commands into one segment; each large one stays its own."""
    if max(map(len, packed)) < LARGE:
        return [b"".join(packed)]
    joined: list[bytes] = []
    small: list[bytes] = []
    for piece in packed:
        if len(piece) < LARGE:
            small.append(piece)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(piece)
    if small:
        joined.append(b"".join(small))
    return joined
