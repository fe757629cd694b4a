"""The layer in memory that stands, in tests, for one whose messages are written in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from channels_core.layers import Outcome, Send
from channels_core.names import prefix_of, process_of
from channels_layer_memory import MemoryBackend

__all__ = ["TransactionalMemory"]


class TransactionalMemory(MemoryBackend):
    """Keeps what is sent in a transaction of the database ``using`` until that commits.

    A ``TestCase`` wraps each test in transactions that never commit. They do not count as open, so that code outside
    its own ``atomic`` blocks sends at once, as it does in production; what is sent inside one leaves where Django's
    ``captureOnCommitCallbacks(execute=True)`` plays the commit.
    """

    is_transactional = True

    def __init__(self, *, using: str = "default", transactional: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._using = using
        self.transactional_by_default = transactional

    def send_in_transaction(self, sends: Sequence[Send]) -> list[Outcome] | None:
        connection = connections[self._using]
        # The mark that Django puts on a test case's own blocks, for durable=True.
        if all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            return None
        return [self._write(connection, send) for send in sends]

    def _write(self, connection: BaseDatabaseWrapper, send: Send) -> Outcome:
        process = process_of(send.channel)
        if process is not None and all(one.id != process for one in self.processes()):
            return Outcome.GONE
        if not send.is_group and self._how_many_wait(connection, send.channel) >= self.capacity_of(
            send.channel
        ):
            return Outcome.FULL
        connection.on_commit(_Written(self, send))
        return Outcome.SENT

    def _how_many_wait(self, connection: BaseDatabaseWrapper, channel: str) -> int:
        """Messages on the channel, and those that the open transaction puts there."""
        queue = prefix_of(channel)
        [figures] = self.statistics([queue])
        # What a savepoint took back is no longer among these.
        calls = [entry[1] for entry in connection.run_on_commit]
        written = [call for call in calls if isinstance(call, _Written)]
        return figures.pending + sum(
            call.backend is self and not call.send.is_group and prefix_of(call.send.channel) == queue
            for call in written
        )


class _Written:
    """A message that waits for the commit."""

    def __init__(self, backend: MemoryBackend, send: Send) -> None:
        self.backend = backend
        self.send = send

    def __call__(self) -> None:
        self.backend.send_one(self.send)
