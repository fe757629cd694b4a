"""Whether anybody would answer: the live workers of the layer, looked up at most once a second."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from channels_core.outage import Outage

if TYPE_CHECKING:
    from channels_core.layers import LayerBackend

__all__ = ["WorkerWatch"]

_FRESH: Final = 1.0


class WorkerWatch:
    """Looks for workers when a connection asks, and remembers for how long there was none."""

    __slots__ = ("_absent_since", "_backend", "_grace", "_living", "_looked_at", "_looking", "_outage")

    def __init__(self, backend: LayerBackend, outage: Outage, *, grace: float) -> None:
        self._backend = backend
        self._outage = outage
        self._grace = grace
        self._looked_at: float | None = None
        self._absent_since: float | None = None
        self._looking: asyncio.Task[None] | None = None
        self._living: frozenset[str] = frozenset()

    async def is_served(self) -> bool:
        """Whether a worker lives, or lived within the grace time; also where nobody can say. Waits only when the last
        answer was no, and at most a third of the process lease."""
        if self._looked_at is None or monotonic() - self._looked_at > _FRESH:
            if not self._backend.is_waiting:
                await self.look()
            else:
                if self._looking is None:
                    self._looking = asyncio.create_task(self.look())
                    self._looking.add_done_callback(self._looked)
                if self._looked_at is None or self._absent_since is not None:
                    await asyncio.shield(self._looking)
        return self._absent_since is None or monotonic() - self._absent_since < self._grace

    @property
    def is_absent(self) -> bool:
        """Whether the last look found no worker."""
        return self._absent_since is not None

    def _looked(self, _: asyncio.Task[None]) -> None:
        self._looking = None

    def missing_since(self, process: str, before: float | None) -> float | None:
        """The time of the first of the looks that did not find ``process``, as ``before`` says of the former ones;
        ``None`` where the last one did."""
        if process in self._living or self._looked_at is None:
            return None
        return self._looked_at if before is None else before

    def has_missed(self, since: float) -> bool:
        """Whether who is missing since then has had the time to come back: a worker whose lease ran out takes a new
        one at its next beat, and what it sent last may be on its way."""
        return self._looked_at is not None and self._looked_at - since >= self._backend.process_lease / 3

    async def look(self) -> None:
        """Look now, until the next beat at most. While the layer is away the last answer stands. Never raises."""
        try:
            async with asyncio.timeout(self._backend.process_lease / 3):
                processes = await self._backend.aprocesses()
        except Exception as error:  # noqa: BLE001 - a backend's failure, whatever it is, is an outage to us
            self._outage.begin(error)
            return
        self._looked_at = monotonic()
        self._living = frozenset(process.id for process in processes)
        if any(process.kind == "worker" for process in processes):
            self._absent_since = None
        elif self._absent_since is None:
            self._absent_since = self._looked_at
