"""Who is in which room.

A person is here while at least one of their sockets is. Consumers run in many threads and processes, so the truth is
a row for each socket, and the channel layer's group is its witness: a socket whose server was killed never says
goodbye, but the layer takes it out of the group, and whoever enters next clears its row away.

Every change is made under a lock on the room's row and has a number, `version`. Frames of two consumers may overtake
each other on their way out; a client that heeds the numbers still ends with the right list.
"""

from typing import Any

from django.db import transaction
from django.db.models import F

from chat.models import Presence, Room


def enter(room: Room, reply_channel: str, *, name: str, guest: bool) -> list[dict[str, Any]]:
    """Note that a socket is open and return the frames that tell the room what changed.

    Call it when the socket has joined the room's group: a row without a member is taken for a leftover.
    Entering twice with one socket is entering once.
    """
    with transaction.atomic():
        before = _lock(room)
        Presence.objects.get_or_create(
            reply_channel=reply_channel, defaults={"room": room, "name": name, "guest": guest}
        )
        _sweep(room)
        return _news(room, before)


def leave(room: Room, reply_channel: str) -> list[dict[str, Any]]:
    """Note that a socket is closed and return the frames that tell the room what changed."""
    with transaction.atomic():
        before = _lock(room)
        room.presences.filter(reply_channel=reply_channel).delete()
        return _news(room, before)


def here(room: Room) -> dict[str, Any]:
    """Return the frame that lists who is in the room."""
    # The version first: news that is already in the list may be told again, but none may be missed.
    room.refresh_from_db(fields=["presence_version"])
    people = [{"user": name, "guest": guest} for name, guest in sorted(_people(room).items())]
    return {"type": "here", "people": people, "version": room.presence_version}


def count(room: Room) -> int:
    """Return how many people are in the room, not counting leftovers of a killed server."""
    members = set(room.group.channels())
    return len(
        {name for name, channel in room.presences.values_list("name", "reply_channel") if channel in members}
    )


def _lock(room: Room) -> dict[str, bool]:
    """Take the room's row until the end of the transaction and return who is in the room."""
    Room.objects.filter(pk=room.pk).update(presence_version=F("presence_version") + 1)
    return _people(room)


def _news(room: Room, before: dict[str, bool]) -> list[dict[str, Any]]:
    room.refresh_from_db(fields=["presence_version"])
    after = _people(room)
    changes = [("left", name) for name in before if name not in after]
    changes += [("joined", name) for name in after if name not in before]
    guests = before | after
    return [
        {"type": kind, "user": name, "guest": guests[name], "version": room.presence_version}
        for kind, name in sorted(changes)
    ]


def _people(room: Room) -> dict[str, bool]:
    """Return the names of who is in the room, and whether each is a guest."""
    return dict(room.presences.values_list("name", "guest"))


def _sweep(room: Room) -> None:
    # Rows first, members second: a socket joins the group before it gets a row, so none is taken for a leftover.
    rows = dict(room.presences.values_list("reply_channel", "pk"))
    leftovers = rows.keys() - set(room.group.channels())
    Presence.objects.filter(pk__in=[rows[channel] for channel in leftovers]).delete()
