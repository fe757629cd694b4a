"""Sends of one event loop that leave together: those made while others are on their way are one call of the script.

A server with fifty sockets would else write, be answered and be woken for every frame by itself, and so would the
worker that waits for the first of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from channels_core.layers import Outcome, Send

if TYPE_CHECKING:
    from channels_layer_redis.engine import Engine
    from channels_layer_redis.sending import Sending

__all__ = ["Gathering"]

_MOST: Final = 100
_MOST_BYTES: Final = 2**19
"""Of what leaves in one call: the server serves nobody else meanwhile."""
_PATIENCE: Final = 0.05
"""Seconds after which a call that is not answered holds up nobody any more."""


class Gathering:
    """The sends of one event loop, for a layer on one server. Use it only in that loop."""

    def __init__(self, engine: Engine, sending: Sending, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._sending = sending
        self._loop = loop
        self._waiting: deque[tuple[Send, asyncio.Future[Outcome]]] = deque()
        self._calls: dict[asyncio.Task[None], None] = {}
        self._is_due = False
        self._left_at = 0.0

    async def send(self, send: Send) -> Outcome:
        """See :meth:`channels_core.layers.LayerBackend.asend_one`. Cancelled before it left, it is not sent."""
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting.append((send, outcome))
        if not self._is_due and (not self._calls or monotonic() - self._left_at > _PATIENCE):
            self._is_due = True
            self._loop.call_soon(self._leave)
        return await outcome

    def _leave(self) -> None:
        self._is_due = False
        batch: list[tuple[Send, asyncio.Future[Outcome]]] = []
        size = 0
        while self._waiting and len(batch) < _MOST and size < _MOST_BYTES:
            one = self._waiting.popleft()
            if not one[1].done():
                size += one[0].size
                batch.append(one)
        if batch:
            self._left_at = monotonic()
            call = self._loop.create_task(self._call(batch))
            self._calls[call] = None
            call.add_done_callback(self._returned)

    def _returned(self, call: asyncio.Task[None]) -> None:
        del self._calls[call]
        if self._waiting and not self._is_due:
            self._leave()

    async def _call(self, batch: Sequence[tuple[Send, asyncio.Future[Outcome]]]) -> None:
        """Send ``batch``, and tell each of those who wait what became of theirs."""
        found: Sequence[Outcome | Exception]
        try:
            if len(batch) == 1:
                found = [await self._engine.arun(self._sending.send_one(batch[0][0]))]
            else:
                found = await self._engine.arun(self._sending.send_together([send for send, _ in batch]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs who wait
            found = [error] * len(batch)
        except BaseException:  # the loop ends
            for _, outcome in batch:
                outcome.cancel()
            raise
        for (_, outcome), one in zip(batch, found, strict=True):
            if not outcome.done():
                if isinstance(one, Exception):
                    outcome.set_exception(one)
                else:
                    outcome.set_result(one)
