"""What happens on the socket of a room. README.md lists the frames.

The messages of one socket are handled one after the other, those of different sockets side by side in the worker's
threads. What a consumer sends leaves when it ends, in the order of sending.
"""

import json
from typing import Any

from channels_core import Channel, DenyConnection, Group, Message
from channels_origin_allowed_hosts import allowed_hosts_only
from channels_session_django import channel_session, channel_session_user_from_http
from chat import presence
from chat.frames import BadFrame, Say, read_frame
from chat.models import Post, Room
from chat.names import make_up_name

HISTORY = 50


@allowed_hosts_only
@channel_session_user_from_http
def enter(message: Message, slug: str) -> None:
    """Let somebody into the room: websocket.connect."""
    room = Room.objects.filter(slug=slug).first()
    if room is None:
        raise DenyConnection
    name, guest = who(message)
    message.channel_session.update({"name": name, "guest": guest})

    message.reply_channel.send({"accept": True})
    # Joining comes before reading: what is said from now on arrives by itself, what was said before is read below.
    room.group.add(message.reply_channel)
    news = presence.enter(room, message.reply_channel.name, name=name, guest=guest)
    posts = reversed(room.posts.order_by("-pk")[:HISTORY])
    tell(message.reply_channel, {"type": "welcome", "room": room.slug, "user": name, "guest": guest})
    tell(message.reply_channel, {"type": "history", "messages": [post.frame() for post in posts]})
    tell(message.reply_channel, presence.here(room))
    for frame in news:
        tell(room.group, frame)


@channel_session
def hear(message: Message, slug: str) -> None:
    """Pass on what somebody sent: websocket.receive."""
    try:
        frame = read_frame(message.content)
    except BadFrame as bad:
        tell(message.reply_channel, {"type": "error", "reason": str(bad), "ref": bad.ref})
        return
    room = Room.objects.get(slug=slug)
    name, guest = message.channel_session["name"], message.channel_session["guest"]
    if isinstance(frame, Say):
        tell(room.group, remember(room, frame, name=name, guest=guest).frame())
    else:
        tell(room.group, {"type": "typing", "user": name})


@channel_session
def leave(message: Message, slug: str) -> None:
    """Say goodbye: websocket.disconnect. It also comes for a socket that was refused."""
    room = Room.objects.filter(slug=slug).first()
    if room is None:
        return
    room.group.discard(message.reply_channel)
    for frame in presence.leave(room, message.reply_channel.name):
        tell(room.group, frame)


def refuse(message: Message) -> None:
    """Turn away a socket at any other address: without a route, it would be accepted."""
    raise DenyConnection


def who(message: Message) -> tuple[str, bool]:
    """Return the name of who is connecting, and whether it is a guest."""
    if message.user.is_authenticated:
        return message.user.get_username(), False
    # The page gave its visitor a name; a client that never loaded a page has no session at all.
    visitor = message.http_session or {}
    return visitor.get("guest_name") or make_up_name(), True


def remember(room: Room, said: Say, *, name: str, guest: bool) -> Post:
    """Keep what was said. A client that is not sure whether it got through may say it again with the same ref."""
    values = {"guest": guest, "text": said.text}
    if said.ref:
        return room.posts.get_or_create(author=name, ref=said.ref, defaults=values)[0]
    return room.posts.create(author=name, **values)


def tell(target: Channel | Group, frame: dict[str, Any]) -> None:
    """Send a frame to one socket or to all of a group."""
    target.send({"text": json.dumps(frame, ensure_ascii=False)})
