"""Where in the tables a channel's messages lie, and how they are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channels_core.layers import AT_LEAST_ONCE
from channels_core.names import process_of
from channels_layer_database.dbapi.doorbell import key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channels_core.layers import LayerBackend

__all__ = ["Place", "Places", "Plan"]

_REMEMBERED: Final = 8192

SHARED, OWN = 1, 2
"""What a row's ``room`` says: counted with its key, or with its prefix alone."""


class Place:
    """Of one channel, or of one prefix."""

    __slots__ = ("capacity", "is_leased", "key", "max_bytes", "name", "owner", "prefix", "ring", "room")

    def __init__(self, layer: LayerBackend, name: str) -> None:
        is_prefix = name.endswith("!")
        self.name = name
        self.owner = process_of(name) if is_prefix else None
        self.prefix = name if is_prefix else None
        self.key = f"{self.owner}!" if self.owner else name
        self.ring = key_of(name)
        self.capacity = layer.capacity_of(name)
        self.room = OWN if is_prefix and layer.explicit_capacity_of(name) is not None else SHARED
        self.max_bytes = layer.inbox_bytes if is_prefix and self.room == SHARED else None
        self.is_leased = layer.delivery_class_of(name) == AT_LEAST_ONCE


class Plan:
    """What one receive asks for: the keys, and for each the prefixes that are wanted of it (none: all there is)."""

    __slots__ = ("has_leases", "is_quiet", "keys", "names", "prefixes", "rings")

    def __init__(self, places: Places, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.prefixes: dict[str, tuple[str, ...]] = {}
        self.has_leases = False
        self.is_quiet = False
        """Whether the last one who waited for this waited in vain: then the next look is that of one who rests."""
        rings = set()
        for name in names:
            place = places.of(name)
            rings.add(place.ring)
            self.has_leases |= place.is_leased
            wanted = self.prefixes.get(place.key, ())
            if place.prefix is not None and place.prefix not in wanted:
                wanted += (place.prefix,)
            self.prefixes[place.key] = wanted
        self.keys = tuple(self.prefixes)
        self.rings = frozenset(rings)


class Places:
    """Remembers the places of names that are used again."""

    __slots__ = ("_layer", "_places", "_plans")

    def __init__(self, layer: LayerBackend) -> None:
        self._layer = layer
        self._places: dict[str, Place] = {}
        self._plans: dict[tuple[str, ...], Plan] = {}

    def of(self, name: str) -> Place:
        """The place of a normal or ``?`` channel, or of a prefix that ends in ``!``."""
        place = self._places.get(name)
        if place is None:
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            place = self._places[name] = Place(self._layer, name)
        return place

    def plan(self, names: tuple[str, ...]) -> Plan:
        """The plan of a receive."""
        plan = self._plans.get(names)
        if plan is None:
            if len(self._plans) >= _REMEMBERED:
                self._plans.clear()
            plan = self._plans[names] = Plan(self, names)
        return plan
