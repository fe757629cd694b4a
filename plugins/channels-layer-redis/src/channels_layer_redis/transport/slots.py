"""Which server of several a key lives on: hash slots as Redis Cluster has them, used for plain servers too."""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache
from typing import Final

from channels_layer_redis.transport.scripts import Argument, Command, Routed

__all__ = ["SLOTS", "key_slot", "routing_key"]

SLOTS: Final = 16384

_KEYLESS: Final = frozenset(
    [
        "ACL",
        "AUTH",
        "CLIENT",
        "CLUSTER",
        "COMMAND",
        "CONFIG",
        "DBSIZE",
        "ECHO",
        "FLUSHALL",
        "FLUSHDB",
        "INFO",
        "KEYS",
        "LASTSAVE",
        "PING",
        "PUBLISH",
        "READONLY",
        "ROLE",
        "SCAN",
        "SCRIPT",
        "SELECT",
        "TIME",
        "WAIT",
        "WAITAOF",
    ]
)
_KEY_THIRD: Final = frozenset({"XINFO", "XGROUP", "OBJECT", "MEMORY"})


@lru_cache(maxsize=65536)
def key_slot(key: str | bytes) -> int:
    """The hash slot of ``key``: of what stands between its first ``{`` and the next ``}``, if anything does."""
    data = key.encode() if isinstance(key, str) else key
    start = data.find(b"{")
    if start >= 0:
        end = data.find(b"}", start + 1)
        if end > start + 1:
            data = data[start + 1 : end]
    return crc_hqx(data, 0) % SLOTS  # the CCITT polynomial from 0, which is the cluster's CRC16


def routing_key(command: Command) -> str | bytes | None:
    """The key that says where ``command`` goes; ``None`` where any server will do."""
    if command.__class__ is Routed:
        return command.key
    name = command[0]
    if name in ("EVALSHA", "EVAL", "FCALL"):
        return _text(command[3]) if command[2] else None
    if name in ("XREADGROUP", "XREAD"):
        return _text(command[command.index("STREAMS") + 1])
    if name in _KEYLESS:
        return None
    if name in _KEY_THIRD:
        return _text(command[2])
    return _text(command[1]) if len(command) > 1 else None


def _text(argument: Argument) -> str | bytes:
    return argument if isinstance(argument, (str, bytes)) else str(argument)
