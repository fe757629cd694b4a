"""Rooms."""

import json

from django.db import models

from channels import Group


class Room(models.Model):
    title = models.CharField(max_length=255)
    staff_only = models.BooleanField(default=False)

    def __str__(self):
        return self.title

    @property
    def websocket_group(self):
        return Group(f"room-{self.pk}")

    def send_message(self, user, **what):
        """Send ``what`` to everybody in the room; held until the consumer that calls this has ended."""
        told = {"room": self.pk, "username": user.get_username(), **what}
        self.websocket_group.send({"text": json.dumps(told)})
