"""Counters of what happened to messages, kept per process and pushed with its lease."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Counts since the process started. Incremented without a lock where the event is hot: exact under the GIL,
    approximate on a free-threaded interpreter."""

    sent: int = 0
    received: int = 0
    expired: int = 0
    full: int = 0
    """Sends refused because the channel was at capacity."""
    group_dropped: int = 0
    """Members a group send skipped because they were full."""
    gone: int = 0
    """Sends dropped because the process that owned the channel was dead."""
    too_large: int = 0
    requeued: int = 0
    redelivered: int = 0
    released: int = 0
    dead: int = 0
    """Messages given up: dead-lettered, or dropped after too many retries."""
    uncertain: int = 0
    retried: int = 0
    """Refused sends of consumers that were sent by a later try."""
    dropped: int = 0
    """Refused sends of consumers given up at the end of the retry time."""
    unrouted: int = 0
    consumed: int = 0
    failed: int = 0
    """Consumer runs that ended in an exception."""
    connections: int = 0
    requests: int = 0
    refused: int = 0
    """Connections and requests refused by the interface: origin, no worker, full channel, bad input."""
    slow_closed: int = 0
    """Sockets closed because their client did not keep up, or their messages could not be sent on in time."""
    credit_lost: int = 0
    """Messages under flow control whose worker never answered."""
    credit_late: int = 0
    """Credits that came when they had been given up as lost, or a second time, of a message that was run twice."""
    worker_lost: int = 0
    """Responses broken off in the middle because their worker had died."""
    unknown_reply: int = 0
    """Replies to connections that had ended."""

    def as_dict(self) -> dict[str, int]:
        """The counters that are not zero."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name))}
