"""The names of keys. Each carries one hash tag, so that what a script touches lives on one server.

==== ================ ========= ==============================================================================
      tag              type      holds
==== ================ ========= ==============================================================================
c     of the channel   stream    what waits on a channel; group ``w`` reads it, its pending entries are leases
f     of the channel   list      what was put back in front, while others wait
t     of the channel   stream    leases on what was taken from f
n     of the channel   string    no lease can have run out while it exists
b     of the channel   string    bytes waiting in an inbox that no process owns
q     of the channel   stream    dead letters
d     of the channel   hash      what was said to a sender lately, for calls that are repeated
p     the process      hash      itself, until it is ended: lease, kind, label, load, counters, what waits in its inbox
i     the process      stream    its inbox: messages, broadcasts, and changes of memberships
x     the process      sorted    its memberships, "channel group"
e     the process      sorted    its channels that have ended
h     the process      set       channels it may hold leases on
u     the process      string    that it was taken for dead
m     the group        sorted    locals of one prefix
r     the group        sorted    prefixes of processes with members
o, k  the group        sorted,   members without owner, and how each is sent to
v     the group        hash      version of each prefix's memberships
l     registry         sorted    processes, by the end of their leases
==== ================ ========= ==============================================================================

The layout is version 1 of what releases share: keys are only ever added.
"""

from __future__ import annotations

from zlib import crc32

__all__ = ["Keys"]


class Keys:
    """Names below one ``prefix``; channels share ``tags`` hash tags."""

    __slots__ = ("prefix", "registry", "tags")

    def __init__(self, prefix: str, tags: int) -> None:
        self.prefix = prefix
        self.tags = tags
        self.registry = f"{prefix}:l:{{registry}}"

    def tag_of(self, channel: str) -> str:
        """The hash tag of a channel, or of a prefix that no process owns."""
        return f"q{crc32(channel.encode()) % self.tags}"

    def of_channel(self, letter: str, channel: str) -> str:
        return f"{self.prefix}:{letter}:{{{self.tag_of(channel)}}}{channel}"

    def of_process(self, letter: str, process: str) -> str:
        return f"{self.prefix}:{letter}:{{{process}}}"

    def of_sender(self, tag: str, sender: str) -> str:
        return f"{self.prefix}:d:{{{tag}}}{sender}"

    def of_group(self, letter: str, group: str, rest: str = "") -> str:
        return f"{self.prefix}:{letter}:{{g.{group}}}{rest}"

    def pattern(self, letter: str) -> str:
        """Matches every key of one kind; a prefix holds nothing that a glob would read otherwise."""
        return f"{self.prefix}:{letter}:{{*"

    def name_in(self, key: bytes) -> str:
        """The channel, prefix or group that ``key`` is about."""
        head, _, rest = key.decode().partition("{")[2].partition("}")
        return head.removeprefix("g.") if head.startswith("g.") else rest
