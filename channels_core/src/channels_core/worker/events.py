"""What a worker tells its host: the points at which Django sends signals and closes connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels_core.worker.worker import Worker

__all__ = ["WorkerEvents"]


class WorkerEvents:
    """Override what is of interest; give no events to a worker where nothing is.

    The consumer events run in the consumer's thread, or task, inside its held sends. An exception from one is logged
    as if the consumer had raised it.
    """

    def worker_ready(self, worker: Worker) -> None:
        """The worker is about to read its first message."""

    def consumer_started(self) -> None:
        """A synchronous consumer is about to be called."""

    def consumer_finished(self) -> None:
        """A synchronous consumer has ended, also by an exception; what it sent has not left yet."""

    async def aconsumer_started(self) -> None:
        """An ``async def`` consumer is about to be awaited."""

    async def aconsumer_finished(self) -> None:
        """An ``async def`` consumer has ended."""

    def thread_finished(self) -> None:
        """This thread has run its last consumer: what it keeps for itself may be closed."""
