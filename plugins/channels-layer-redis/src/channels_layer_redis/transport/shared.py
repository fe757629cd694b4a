"""What all clients of a transport know together: where keys live, the scripts, what the servers said about themselves.

Used by several threads at once. Each change is one assignment; only epochs and outages are counted under a lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from channels_core.outage import Outage
from channels_layer_redis.transport.addresses import Address, Servers
from channels_layer_redis.transport.greeting import ServerFacts
from channels_layer_redis.transport.replies import Reply, TransportError, Unsent
from channels_layer_redis.transport.routing import MASTER, Router
from channels_layer_redis.transport.scripts import Command, Script

__all__ = ["Shared"]

logger: Final = logging.getLogger("channels.redis")


class Shared:
    """See the module. ``on_salvaged`` is set by the transport's owner."""

    def __init__(self, servers: Servers, scripts: Iterable[Script]) -> None:
        self.servers = servers
        self.router = Router(servers)
        self.scripts = {script.sha: script for script in scripts}
        self.facts: dict[Address, ServerFacts] = {}
        self.on_salvaged: Callable[[Sequence[Command], Sequence[Reply]], None] | None = None
        self.epochs: dict[Address, int] = {}
        self._lost: set[Address] = set()
        self._outages: dict[Address, Outage] = {}
        self._lock = threading.Lock()

    @property
    def can_unblock(self) -> bool:
        """Whether every server known lets a waiting read be ended."""
        return all(facts.can_unblock for facts in tuple(self.facts.values()))

    def place(self, address: Address) -> str:
        """``address`` for people, without a password."""
        return str(self.servers) if address == MASTER else str(self.router.endpoint_of(address))

    def unreachable(self, address: Address, error: BaseException) -> Unsent:
        """No connection could be made: says so in the log, once, and gives what to raise."""
        reason = str(error) or (
            f"no answer within {self.servers.connect_timeout:g} s"
            if isinstance(error, TimeoutError)
            else type(error).__name__
        )
        with self._lock:
            outage = self._outages.get(address)
            if outage is None:
                outage = self._outages[address] = Outage(
                    self.place(address), logger, "It is tried again, with pauses of up to 2 seconds."
                )
        unsent = Unsent(f"Not sent: {self.place(address)} cannot be reached: {reason}")
        outage.begin(unsent)
        return unsent

    def reached(self, address: Address, facts: ServerFacts) -> None:
        """A connection was made."""
        outage = self._outages.get(address)
        if outage is not None:
            outage.end()
        with self._lock:
            known = self.facts.get(address)
            is_another = known is not None and known.run_id != facts.run_id
            if is_another or address in self._lost:
                self._lost.discard(address)
                self.epochs[address] = self.epochs.get(address, 0) + 1
            self.facts[address] = facts

    def lost(self, address: Address) -> None:
        """A connection that had been made was lost."""
        with self._lock:
            self._lost.add(address)

    def salvage(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Hand on replies that came although nobody waits for them any more."""
        if self.on_salvaged is None or all(isinstance(reply, TransportError) for reply in replies):
            return
        try:
            self.on_salvaged(commands, replies)
        except Exception:  # a connection's other replies must not be lost with it
            logger.exception("What came back for a cancelled request could not be dealt with.")
