"""What the server handed out and nobody got: the answer to a read was lost with its connection.

The server holds such messages leased to the process, which lives and knows nothing of them. Until the lease ran out
they would be late. So a while after a read was not answered, its process looks at what the server holds for it, and
gives back what is in nobody's hands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final
from weakref import ref

from channels_core.layers import Delivery, Settlement, Verdict
from channels_layer_redis.channels import Lease, Queue
from channels_layer_redis.engine import Engine, Steps, sure
from channels_layer_redis.transport import CommandError, TransportError

__all__ = ["LostReads"]

_CALMED_DOWN: Final = 1.0
"""Seconds after which an answer that is not lost has come."""
_MOST: Final = 1000


class LostReads:
    """Of one backend. Thread-safe; costs a reference for each lease while nothing is lost."""

    def __init__(self, engine: Engine, settle: Callable[[Sequence[Settlement]], Steps[None]]) -> None:
        self._engine = engine
        self._settle = settle
        self._in_hand: set[ref[Lease]] = set()
        self._lost: dict[str, tuple[float, frozenset[Queue]]] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self._lost)

    def take(self, lease: Lease) -> None:
        """This one arrived: it is in somebody's hands for as long as it exists."""
        self._in_hand.add(ref(lease, self._in_hand.discard))

    def note(self, process: str | None, queues: Iterable[Queue]) -> None:
        """A read of ``queues`` for ``process`` was not answered."""
        leased = frozenset(queue for queue in queues if queue.is_leased)
        if leased and process is not None:
            before = self._lost.get(process)
            self._lost[process] = monotonic(), leased if before is None else leased | before[1]

    def give_back(self, process: str | None) -> Steps[None]:
        """Look for what was lost, where it is time; see :meth:`note`."""
        now = monotonic()
        found = self._lost.get(process or "")
        if (
            found is None or process is None
        ):  # who reads for others now does not look for them; their leases run out
            for other, (when, _) in tuple(self._lost.items()):
                if now - when > self._engine.options.lease:
                    self._lost.pop(other, None)
            return
        since, queues = found
        age = now - since
        if age < _CALMED_DOWN or self._lost.pop(process, None) is None:
            return
        places = [(queue, letter) for queue in queues for letter in "tc"]
        try:
            replies = yield [self._pending(queue, letter, process, age) for queue, letter in places]
            lost: list[Settlement] = []
            for (queue, letter), reply in zip(places, replies, strict=True):
                if not isinstance(
                    reply, CommandError
                ):  # there is no such stream, or none that is read in groups
                    lost += self._not_in_hand(queue, letter, process, sure(reply))
            released = self._engine.counters.released
            yield from self._settle(lost)
            self._engine.counters.released = released
        except TransportError:
            self.note(process, queues)
            raise

    def _pending(self, queue: Queue, letter: str, process: str, age: float) -> tuple[str | int, ...]:
        key = self._engine.keys.of_channel(letter, queue.name)
        return "XPENDING", key, "w", "IDLE", int(age * 1000), "-", "+", _MOST, process

    def _not_in_hand(
        self, queue: Queue, letter: str, process: str, pending: Sequence[Sequence[Any]]
    ) -> list[Settlement]:
        leases = [lease for known in self._in_hand.copy() if (lease := known()) is not None]
        in_hand = {lease.ref for lease in leases if lease.queue is queue}
        lost = [place for entry in pending if (place := letter.encode() + entry[0]) not in in_hand]
        return [
            Settlement(
                Delivery(queue.name, {}, {}, (), 1, Lease(queue, place, process), True), Verdict.RELEASE
            )
            for place in lost
        ]
