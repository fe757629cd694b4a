"""Rooms, what was said in them, and who is there."""

from typing import Any

from django.db import models
from django.urls import reverse

from channels_core import Group


class Room(models.Model):
    """A place to talk, with a page and a socket."""

    slug = models.SlugField(unique=True)
    title = models.CharField(max_length=50)
    topic = models.CharField(max_length=120, blank=True)
    # Counts the changes to who is here, so that a client can tell older news from newer.
    presence_version = models.PositiveBigIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        """Return the path of the room's page."""
        return reverse("room", args=[self.slug])

    @property
    def group(self) -> Group:
        """All sockets that are open on this room."""
        return Group(f"room.{self.slug}")


class Post(models.Model):
    """Something said in a room. The names of those who said it stay, also when they are gone."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="posts")
    author = models.CharField(max_length=150)
    guest = models.BooleanField()
    text = models.TextField()
    # The client's own mark, so that a message sent again after a lost connection is kept once.
    ref = models.CharField(max_length=64, blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["room", "author", "ref"], condition=~models.Q(ref=""), name="chat_post_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.author}: {self.text}"

    def frame(self) -> dict[str, Any]:
        """Return the frame that tells this to everyone in the room."""
        return {
            "type": "said",
            "user": self.author,
            "guest": self.guest,
            "text": self.text,
            "id": self.pk,
            "at": self.at.isoformat(),
            "ref": self.ref,
        }


class Presence(models.Model):
    """One open socket of somebody in a room. Several tabs are several rows under one name."""

    room = models.ForeignKey(Room, on_delete=models.CASCADE, related_name="presences")
    reply_channel = models.CharField(max_length=100, unique=True)
    name = models.CharField(max_length=150)
    guest = models.BooleanField()

    class Meta:
        indexes = [models.Index(fields=["room", "name"], name="chat_presence_who")]

    def __str__(self) -> str:
        return f"{self.name} in {self.room}"
