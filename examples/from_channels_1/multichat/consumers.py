"""One socket for all rooms: frames are commands, and go on to a channel of their own."""

import json

from channels import Channel
from channels.auth import channel_session_user, channel_session_user_from_http
from channels.sessions import enforce_ordering
from multichat.exceptions import ClientError, catch_client_error
from multichat.models import Room

# The socket.


@enforce_ordering
@channel_session_user_from_http
def ws_connect(message):
    """Only who has signed in may chat."""
    if not message.user.is_authenticated:
        message.reply_channel.send({"close": True})
        return
    message.channel_session["rooms"] = []
    message.reply_channel.send({"accept": True})


@enforce_ordering
@channel_session_user
def ws_receive(message):
    """Hand a command on, with the socket that its answer goes to."""
    try:
        payload = json.loads(message["text"])
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        ClientError("NOT_A_COMMAND").send_to(message.reply_channel)
        return
    payload["reply_channel"] = message.content["reply_channel"]
    Channel("chat.receive").send(payload)


@enforce_ordering
@channel_session_user
def ws_disconnect(message):
    """Leave every room."""
    for room in Room.objects.filter(pk__in=message.channel_session.get("rooms", [])):
        room.websocket_group.discard(message.reply_channel)
        room.send_message(message.user, left=True)


# Commands. They come one after the other from ws_receive, each with the reply channel, and so with session and user.


def room_of(message):
    try:
        room = Room.objects.get(pk=int(message["room"]))
    except (KeyError, TypeError, ValueError, Room.DoesNotExist):
        raise ClientError("ROOM_INVALID") from None
    if room.staff_only and not message.user.is_staff:
        raise ClientError("ROOM_ACCESS_DENIED")
    return room


def room_joined(message):
    room = room_of(message)
    if room.pk not in message.channel_session["rooms"]:
        raise ClientError("ROOM_NOT_JOINED")
    return room


@channel_session_user
@catch_client_error
def chat_join(message):
    room = room_of(message)
    message.channel_session["rooms"] = sorted({*message.channel_session["rooms"], room.pk})
    room.websocket_group.add(message.reply_channel)
    room.send_message(message.user, joined=True)
    message.reply_channel.send({"text": json.dumps({"join": room.pk, "title": room.title})})


@channel_session_user
@catch_client_error
def chat_leave(message):
    room = room_joined(message)
    message.channel_session["rooms"] = [pk for pk in message.channel_session["rooms"] if pk != room.pk]
    room.websocket_group.discard(message.reply_channel)
    room.send_message(message.user, left=True)
    message.reply_channel.send({"text": json.dumps({"leave": room.pk})})


@channel_session_user
@catch_client_error
def chat_send(message):
    room_joined(message).send_message(message.user, message=str(message.get("message", "")))


@channel_session_user
@catch_client_error
def chat_rename(message):
    """For staff only."""
    if not message.user.is_staff:
        raise ClientError("NOT_STAFF")
    room = room_of(message)
    room.title = str(message.get("title", ""))[:255] or room.title
    room.save()
    room.send_message(message.user, title=room.title)


@channel_session_user
@catch_client_error
def chat_unknown(message):
    raise ClientError("COMMAND_UNKNOWN")
