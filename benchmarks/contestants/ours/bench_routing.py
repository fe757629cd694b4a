"""Echo and broadcast as consumers, once plain and once `async def`."""

# mypy: disable-error-code="union-attr,arg-type"
# A reply channel may be None, but never in a message of an interface server; users do not write asserts for it either.

from channels_core import Group, Message
from channels_router_regex import route


def accept(message: Message) -> None:
    message.reply_channel.send({"accept": True})


def join(message: Message) -> None:
    Group("all").add(message.reply_channel)
    message.reply_channel.send({"accept": True})


def echo(message: Message) -> None:
    message.reply_channel.send({"text": message["text"]})


def broadcast(message: Message) -> None:
    Group("all").send({"text": message["text"]})


async def async_accept(message: Message) -> None:
    await message.reply_channel.asend({"accept": True})


async def async_join(message: Message) -> None:
    await Group("all").aadd(message.reply_channel)
    await message.reply_channel.asend({"accept": True})


async def async_echo(message: Message) -> None:
    await message.reply_channel.asend({"text": message["text"]})


async def async_broadcast(message: Message) -> None:
    await Group("all").asend({"text": message["text"]})


routes = [
    route("websocket.connect", accept, path=r"^/echo$"),
    route("websocket.connect", join, path=r"^/broadcast$"),
    route("websocket.receive", echo, path=r"^/echo$"),
    route("websocket.receive", broadcast, path=r"^/broadcast$"),
]
async_routes = [
    route("websocket.connect", async_accept, path=r"^/echo$"),
    route("websocket.connect", async_join, path=r"^/broadcast$"),
    route("websocket.receive", async_echo, path=r"^/echo$"),
    route("websocket.receive", async_broadcast, path=r"^/broadcast$"),
]
