"""Layers of Channels 1.x by their dotted paths, as old settings name them, and the layers that take their place.

Settings written for Channels 1.x keep working; a system check says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Successor", "explain", "successor_of", "translate"]

_COMMON: Final = ("expiry", "group_expiry", "capacity", "channel_capacity")


@dataclass(frozen=True, kw_only=True, slots=True)
class Successor:
    """What takes the place of an old layer."""

    backend: str
    """A registered name."""
    options: tuple[str, ...] = _COMMON
    """Options of the old layer that mean the same; its others have no meaning any more."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Old options that have another name."""


_REDIS: Final = Successor(backend="redis", options=(*_COMMON, "hosts", "prefix", "symmetric_encryption_keys"))
_DATABASE: Final = Successor(backend="database")
_SUCCESSORS: Final[Mapping[str, Successor]] = {
    "asgiref.inmemory.ChannelLayer": Successor(backend="memory"),
    "asgi_redis.RedisChannelLayer": _REDIS,
    "asgi_redis.RedisLocalChannelLayer": _REDIS,
    "asgi_redis.core.RedisChannelLayer": _REDIS,
    "asgi_redis.local.RedisLocalChannelLayer": _REDIS,
    "asgi_redis.RedisSentinelChannelLayer": Successor(
        backend="redis",
        options=(*_COMMON, "prefix", "symmetric_encryption_keys"),
        renamed={"hosts": "sentinels", "services": "master_name"},
    ),
    "asgi_ipc.IPCChannelLayer": _DATABASE,
    "asgi_rabbitmq.RabbitmqChannelLayer": _DATABASE,
    "channels.database_layer.DatabaseChannelLayer": _DATABASE,
}


def successor_of(entry: object) -> Successor | None:
    """What takes the place of the layer that an entry of ``CHANNEL_LAYERS`` names; ``None`` where it is no old one."""
    backend = entry.get("BACKEND") if isinstance(entry, Mapping) else None
    return _SUCCESSORS.get(backend) if isinstance(backend, str) else None


def translate(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry as it is written now; itself, where it names no old layer."""
    successor = successor_of(entry)
    if successor is None:
        return entry
    changes: dict[str, Any] = {"BACKEND": successor.backend}
    for key in ("CONFIG", "TEST_CONFIG"):
        if isinstance(entry.get(key), Mapping):
            changes[key] = _options(successor, entry[key])
    return {**entry, **changes}


def _options(successor: Successor, options: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: options[name] for name in options if name in successor.options}
    if isinstance(kept.get("prefix"), str):  # they often ended in a colon, and now have the letters of names
        kept["prefix"] = re.sub(r"[^A-Za-z0-9._-]+", "-", kept["prefix"]).strip("-") or "channels"
    for old, new in successor.renamed.items():
        if old in options:
            value = options[old]
            # Sentinels of old were asked for several masters, and the first one was the first shard.
            kept[new] = (
                value[0] if new == "master_name" and isinstance(value, list | tuple) and value else value
            )
    return kept


def explain(alias: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """What is old about an entry that has a successor, and what to write instead."""
    now = translate(entry)
    gone = [
        name
        for name in entry.get("CONFIG") or {}
        if (successor := successor_of(entry)) and name not in (*successor.options, *successor.renamed)
    ]
    ignored = f" Its options {', '.join(sorted(gone))} have no meaning any more." if gone else ""
    # Not the values: there may be keys and passwords among them.
    names = ", ".join(f"{name!r}: ..." for name in now.get("CONFIG") or {})
    config = f", 'CONFIG': {{{names}}}" if names else ""
    return (
        f"CHANNEL_LAYERS[{alias!r}] has BACKEND {entry['BACKEND']!r}, a layer of Channels 1.x; the layer"
        f" {now['BACKEND']!r} takes its place.{ignored}",
        f"Write {{'BACKEND': {now['BACKEND']!r}{config}, 'ROUTING': ...}} instead.",
    )
