"""Consumers of the deployed site: an ordered echo, a room, and what the proofs need beside them.

Every consumer takes at least :data:`BRIEFLY`, so that what a worker prefetches, and a kill can lose, has a known bound.
"""

import asyncio
import os
import time
from typing import Any

from channels_core import Channel, Group, Message
from channels_router_regex import route
from channels_session_django import channel_session

BRIEFLY = 0.0005
"""Seconds that the quickest consumer takes."""
HOLD = 0.25
"""Seconds that the slowest one takes."""
ME = os.getpid()


def connect(message: Any) -> None:
    time.sleep(BRIEFLY)
    Group("room").add(message.reply_channel)
    message.reply_channel.send({"accept": True})


def receive(message: Message) -> None:
    assert message.reply_channel is not None
    word, number, *rest = message["text"].split(" ", 2)
    time.sleep(HOLD if word == "slow" else BRIEFLY)
    answer(message.reply_channel, word, number, rest)


def answer(reply_channel: Channel, word: str, number: str, rest: list[str]) -> None:
    if word == "room":
        Group("room").send({"text": f"room {number} {rest[0]}"})
    elif word == "pour":  # a stream to this client: so many messages of 16 KiB
        for n in range(int(number)):
            reply_channel.send({"text": f"poured {n} {'x' * 2**14}"})
    elif word == "jobs":  # for a channel that nobody reads
        for n in range(int(number)):
            Channel("jobs").send({"n": n})
        reply_channel.send({"text": f"barrier {number} {ME}"})
    else:
        reply_channel.send({"text": f"{word} {number} {ME}"})


def disconnect(message: Any) -> None:
    time.sleep(BRIEFLY)
    Group("room").discard(message.reply_channel)


async def aconnect(message: Any) -> None:
    await Group("room").aadd(message.reply_channel)
    message.reply_channel.send({"accept": True})


async def areceive(message: Message) -> None:
    assert message.reply_channel is not None
    word, number, *rest = message["text"].split(" ", 2)
    await asyncio.sleep(HOLD if word == "slow" else BRIEFLY)
    answer(message.reply_channel, word, number, rest)


async def adisconnect(message: Any) -> None:
    await Group("room").adiscard(message.reply_channel)


def own_group(message: Any) -> Group:
    """A group for this visitor alone, as for each user, or each order."""
    return Group(message.reply_channel.name.partition("!")[2])


@channel_session
def remember(message: Any) -> None:
    message.channel_session["since"] = time.time()
    own_group(message).add(message.reply_channel)
    connect(message)


@channel_session
def receive_remembering(message: Any) -> None:
    message.channel_session["frames"] = message.channel_session.get("frames", 0) + 1
    receive(message)


@channel_session
def forget(message: Any) -> None:
    """Leaves the room, and leaves it to the end of the channel to leave the other group."""
    disconnect(message)


routes = [
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
]
async_routes = [
    route("websocket.connect", aconnect),
    route("websocket.receive", areceive),
    route("websocket.disconnect", adisconnect),
]
session_routes = [
    route("websocket.connect", remember),
    route("websocket.receive", receive_remembering),
    route("websocket.disconnect", forget),
]
