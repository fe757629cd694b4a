"""Where commands go, and the finding of servers that are not known by configuration. No input or output of its own.

What has to be asked is yielded as an :class:`Ask` and its replies are sent back in, so that the asynchronous and the
blocking client share it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, TypeAlias

from channels_layer_redis.transport.addresses import Address, Endpoint, Servers
from channels_layer_redis.transport.replies import CommandError, Reply, TransportError, Unsent
from channels_layer_redis.transport.scripts import Command
from channels_layer_redis.transport.slots import SLOTS, key_slot, routing_key

__all__ = ["MASTER", "Ask", "Asking", "Router"]

MASTER: Final = Address("", 0)
"""Stands for whichever server the Sentinels name."""


@dataclass(frozen=True)
class Ask:
    """Put ``commands`` to ``endpoint`` on a connection of their own; send back the replies, or what went wrong."""

    endpoint: Endpoint
    commands: Sequence[Command]


_FRESH: Final = 0.2
"""Seconds for which an answer of the cluster is not asked for again."""

Answer: TypeAlias = "list[Reply] | TransportError"
Asking: TypeAlias = Generator[Ask, Answer, None]


class Router:
    """Which server takes a command. Shared by all clients of a transport; every change is one assignment."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self.is_sharded = servers.is_sharded
        self.is_discovered = servers.kind == "cluster"
        self._fresh_until = 0.0
        self.changes = 0
        """How often a slot was found on another server than before."""
        self._sentinels = servers.endpoints
        self._table: list[Address | None] = []
        self._endpoints = {endpoint.address: endpoint for endpoint in servers.endpoints}
        if servers.kind == "several":
            count = len(servers.endpoints)
            self._table = [servers.endpoints[slot * count // SLOTS].address for slot in range(SLOTS)]
        elif servers.kind == "cluster":
            self._table = [None] * SLOTS
        self.only = MASTER if servers.kind == "sentinel" else servers.endpoints[0].address
        """Where everything goes that does not depend on a key."""

    @property
    def needs_survey(self) -> bool:
        """Whether :meth:`survey` has to be run before anything can be routed."""
        return self._servers.kind == "cluster" and self._table[0] is None and not any(self._table)

    def address_for(self, command: Command) -> Address:
        """The server that ``command`` goes to, as far as is known."""
        if not self.is_sharded:
            return self.only
        key = routing_key(command)
        return self.only if key is None else self.address_of(key)

    def address_of(self, key: str | bytes) -> Address:
        """The server that holds ``key``, as far as is known."""
        return (self._table[key_slot(key)] or self.only) if self.is_sharded else self.only

    def endpoint_of(self, address: Address) -> Endpoint:
        """How to reach ``address``; a node that was discovered is reached like those of the configuration."""
        return self._endpoints.get(address) or replace(self._servers.template, address=address)

    def masters(self) -> list[Address]:
        """Every server that holds keys, in a stable order."""
        if not self.is_sharded:
            return [self.only]
        return sorted({address for address in self._table if address is not None}) or [self.only]

    def keys(self) -> list[str]:
        """A key for each of :meth:`masters`, in their order: a hash tag that lives there."""
        wanted = dict.fromkeys(self.masters(), "")
        missing = len(wanted)
        for number in range(SLOTS * 8):
            key = f"{{{number}}}"
            address = self.address_of(key)
            if wanted.get(address) == "":
                wanted[address] = key
                missing -= 1
                if not missing:
                    break
        return [key for key in wanted.values() if key]

    def moved(self, slot: int, address: Address) -> None:
        """``slot`` lives on ``address`` now."""
        if self._table[slot] not in (None, address):
            self.changes += 1
        self._table[slot] = address

    def find_master(self) -> Generator[Ask, Answer, Endpoint]:
        """The server that the Sentinels name now. Asks one after the other, the last one that knew it first.

        Raises :class:`Unsent` when none of them knows.
        """
        name = self._servers.master_name
        complaints: list[str] = []
        for sentinel in self._sentinels:
            answer = yield Ask(sentinel, [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)])
            reply = answer if isinstance(answer, TransportError) else answer[-1]
            if isinstance(reply, list) and len(reply) == 2:
                others = tuple(other for other in self._sentinels if other is not sentinel)
                self._sentinels = (sentinel, *others)
                return replace(self._servers.template, address=Address(reply[0].decode(), int(reply[1])))
            complaints.append(f"{sentinel.address}: {'does not know it' if reply is None else reply}")
        raise Unsent(
            f"No Sentinel says where the master {name!r} is ({'; '.join(complaints)}). Check master_name and the"
            " addresses of the Sentinels."
        )

    def survey(self) -> Asking:
        """Ask the nodes, known ones first, which of them serves which slot; keep the first whole answer."""
        if not self.is_discovered or monotonic() < self._fresh_until:
            return
        asked: set[Address] = set()
        for address in [*self.masters(), *self._endpoints]:
            if address in asked:
                continue
            asked.add(address)
            answer = yield Ask(self.endpoint_of(address), [("CLUSTER", "SLOTS")])
            reply = answer if isinstance(answer, TransportError) else answer[-1]
            if isinstance(reply, list) and reply:
                self._read(reply, address)
                self._fresh_until = monotonic() + _FRESH
                return
            if isinstance(reply, CommandError) and "cluster support disabled" in reply.text:
                raise Unsent(
                    f"{address} is no node of a cluster. Remove the option cluster, or name the cluster's nodes."
                )

    def _read(self, ranges: list[Reply], asked: Address) -> None:
        table: list[Address | None] = [None] * SLOTS
        for first, last, master, *_ in ranges:
            host = master[0].decode() if master[0] else asked.host
            if host != "?":
                table[first : last + 1] = [Address(host, master[1])] * (last + 1 - first)
        if any(was not in (None, now) for was, now in zip(self._table, table, strict=True)):
            self.changes += 1
        self._table = table
        if self.only not in table:
            self.only = next((address for address in table if address is not None), self.only)
