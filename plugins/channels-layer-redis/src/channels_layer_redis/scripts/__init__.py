"""The Lua scripts, each a file whose first comment says what it does, on which keys, and what it returns."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from channels_layer_redis.transport import Script

__all__ = [
    "ALL",
    "CLEAN",
    "CLOSE_CHANNEL",
    "EXCHANGE",
    "FORGET",
    "GUEST",
    "MEMBER",
    "MEMBERS",
    "PROCESS",
    "PULL",
    "REGISTRY",
    "REPLY",
    "SEND",
]


def _load(name: str) -> Script:
    return Script(name, (files(__package__) / f"{name}.lua").read_text())


EXCHANGE: Final = _load("exchange")
MEMBER: Final = _load("member")
GUEST: Final = _load("guest")
MEMBERS: Final = _load("members")
CLOSE_CHANNEL: Final = _load("close_channel")
PROCESS: Final = _load("process")
REGISTRY: Final = _load("registry")
FORGET: Final = _load("forget")
PULL: Final = _load("pull")
SEND: Final = _load("send")
REPLY: Final = _load("reply")
CLEAN: Final = _load("clean")
ALL: Final = (
    SEND,
    REPLY,
    EXCHANGE,
    MEMBER,
    GUEST,
    MEMBERS,
    CLOSE_CHANNEL,
    PROCESS,
    REGISTRY,
    FORGET,
    PULL,
    CLEAN,
)
