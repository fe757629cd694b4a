"""Lua scripts, named by their digest on the wire and loaded before anything else on each connection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Argument", "Command", "Routed", "Script"]

Argument: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Argument, ...]
"""A command and its arguments: ``("XADD", key, "*", "m", body)``."""


class Routed(tuple[Argument, ...]):
    """A command that goes where ``key`` lives, for commands that name no key (``WAIT``, ``SCAN``).

    ``key`` ``None`` is any server.
    """

    key: str | bytes | None

    def __new__(cls, command: Sequence[Argument], key: str | bytes | None) -> Routed:
        self = super().__new__(cls, command)
        self.key = key
        return self


@dataclass(frozen=True, eq=False)
class Script:
    """A Lua script. Make it once; ``name`` is for people."""

    name: str
    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # the digest is the server's name for the script, no matter of security
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)

    def call(self, keys: Sequence[str | bytes], arguments: Sequence[Argument] = ()) -> Command:
        """The command that runs it. In a cluster all keys must lie in one slot; the first one says which."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)
