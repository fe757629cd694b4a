"""Sends that their channels refused, tried again in the order in which they came.

A channel that has little room serves whoever happens to ask when there is some. So what comes while others wait for the
same channel waits behind them: the first one finds out when there is room, and then the others follow in batches. That
is fair, and asks little of an engine that has enough to do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from channels_core.layers import Outcome, Send
from channels_core.outage import pauses

if TYPE_CHECKING:
    from channels_core.interface.inbox import Inbox

__all__ = ["Lines"]

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1
_LARGEST_BATCH: Final = 64
_PATIENCE_LOOKED_AT: Final = 0.25
"""Seconds between looks for those whose time is up."""


class _Waiting:
    __slots__ = ("bears_repeat", "outcome", "send", "until")

    def __init__(
        self, send: Send, until: float, outcome: asyncio.Future[Outcome], *, bears_repeat: bool
    ) -> None:
        self.send = send
        self.until = until
        self.outcome = outcome
        self.bears_repeat = bears_repeat

    def end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Lines:
    """The lines before an inbox's channels, one for each that refused. False while there is none.

    Holds no more than one send for each caller that waits in :meth:`wait`.
    """

    __slots__ = ("_inbox", "_lines")

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._lines: dict[str, deque[_Waiting]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, channel: str) -> bool:
        return channel in self._lines

    async def wait(self, send: Send, *, until: float, bears_repeat: bool) -> Outcome:
        """Stand in line for the send's channel until it was sent, or the loop's time is ``until``; the last outcome.

        An uncertain send is repeated where ``bears_repeat``.
        """
        inbox = self._inbox
        one = _Waiting(send, until, inbox.loop.create_future(), bears_repeat=bears_repeat)
        line = self._lines.get(send.channel)
        if line is None:
            line = self._lines[send.channel] = deque((one,))
            inbox.spawn(self._serve(send.channel, line))
        else:
            line.append(one)
        return await one.outcome

    async def _serve(self, channel: str, line: deque[_Waiting]) -> None:
        inbox = self._inbox
        tries, size, look_at = pauses(_FIRST_PAUSE, _LONGEST_PAUSE), 1, 0.0
        try:
            while True:
                now = inbox.loop.time()
                if inbox.is_aborted or now >= look_at:
                    look_at = now + _PATIENCE_LOOKED_AT
                    self._dismiss(line, now)
                if not line:
                    return
                batch = list(islice(line, size))
                outcomes = await inbox.try_sends([one.send for one in batch])
                served = self._end(line, batch, outcomes)
                if served == len(batch):
                    size = min(size * 4, _LARGEST_BATCH)
                else:
                    await asyncio.sleep(next(tries))
                    size = max(1, served)
                if served:
                    tries = pauses(_FIRST_PAUSE, _LONGEST_PAUSE)
        finally:
            del self._lines[channel]
            for one in line:
                one.end(Outcome.FULL)

    def _dismiss(self, line: deque[_Waiting], now: float) -> None:
        """Those whose time is up, and those who went away."""
        for _ in range(len(line)):
            one = line.popleft()
            if one.until <= now or self._inbox.is_aborted:
                one.end(Outcome.FULL)
            elif not one.outcome.done():
                line.append(one)

    @staticmethod
    def _end(line: deque[_Waiting], batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> int:
        """Tell those at the head what became of their sends; how many wait no more."""
        again = []
        for one, outcome in zip(batch, outcomes, strict=True):
            line.popleft()
            if outcome.is_final or (outcome is Outcome.UNCERTAIN and not one.bears_repeat):
                one.end(outcome)
            else:
                again.append(one)
        line.extendleft(reversed(again))
        return len(batch) - len(again)
