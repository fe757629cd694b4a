"""How the layer speaks to Redis and Valkey servers: commands in, replies out, from any thread or event loop.

It knows nothing of channels. Replies come in the order of the commands; what fails stands in the place of its reply,
and it is always told apart whether nothing was sent (:class:`Unsent`) or nothing came back (:class:`Unanswered`).
"""

from channels_layer_redis.transport.addresses import Servers
from channels_layer_redis.transport.aio import AsyncClient
from channels_layer_redis.transport.blocking import SyncClient
from channels_layer_redis.transport.conversation import Suffices
from channels_layer_redis.transport.greeting import ServerFacts
from channels_layer_redis.transport.replies import CommandError, Reply, TransportError, Unanswered, Unsent
from channels_layer_redis.transport.scripts import Command, Routed, Script
from channels_layer_redis.transport.slots import key_slot
from channels_layer_redis.transport.transport import Transport

__all__ = [
    "AsyncClient",
    "Command",
    "CommandError",
    "Reply",
    "Routed",
    "Script",
    "ServerFacts",
    "Servers",
    "Suffices",
    "SyncClient",
    "Transport",
    "TransportError",
    "Unanswered",
    "Unsent",
    "key_slot",
]
