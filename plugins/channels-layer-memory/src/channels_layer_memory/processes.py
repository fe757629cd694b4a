"""The processes that hold a lease on the layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from channels_core.layers import ProcessInfo
from channels_layer_memory.queues import Queue, Room

if TYPE_CHECKING:
    from channels_core.layers import ProcessKind

__all__ = ["Process"]


class Process:
    """One of them: its inbox is the queues of its prefixes, which share one room and one numbering."""

    __slots__ = ("counters", "id", "kind", "label", "lease_end", "load", "opened", "queues", "room")

    def __init__(
        self, process_id: str, kind: ProcessKind, label: str, *, opened: float, lease_end: float, room: Room
    ) -> None:
        self.id = process_id
        self.kind: ProcessKind = kind
        self.label = label
        self.opened = opened
        self.lease_end = lease_end
        self.room = room
        self.load = 0.0
        self.counters: Mapping[str, int] = {}
        self.queues: list[Queue] = []

    def describe(self, now: float) -> ProcessInfo:
        return ProcessInfo(
            id=self.id,
            kind=self.kind,
            age=now - self.opened,
            load=self.load,
            label=self.label,
            counters=dict(self.counters),
        )
