"""What a server says about itself that its users should hear about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from channels_core.exceptions import InvalidChannelLayerError
from channels_layer_redis.transport import ServerFacts

__all__ = ["OLDEST", "problems"]

OLDEST: Final = (6, 2)
"""Of Redis. Every Valkey will do."""


def problems(facts: Mapping[str, ServerFacts], *, keeps: bool) -> Iterator[str]:
    """What is wrong with each server, by its place; ``keeps`` says whether some channel is at-least-once.

    Raises :class:`~channels_core.exceptions.InvalidChannelLayerError` for a server that is too old.
    """
    for place, said in facts.items():
        if said.version and not said.is_valkey and said.version[:2] < OLDEST:
            raise InvalidChannelLayerError(
                f"The server at {place} is Redis {'.'.join(map(str, said.version))}; the Redis layer needs 6.2 or"
                " later, or any Valkey. Upgrade the server."
            )
        policy = said.maxmemory_policy
        if policy is not None and policy != "noeviction":
            yield (
                f"The server at {place} throws keys away when its memory is full (maxmemory-policy {policy}):"
                " messages and memberships can vanish. Set maxmemory-policy to noeviction, or use a server of its own"
                " for channels."
            )
        if keeps and said.is_persistent is False:
            yield (
                f"The server at {place} writes nothing to disk, and some channels are at-least-once: when it restarts,"
                " their messages are lost. Set appendonly to yes."
            )
