"""Models of the tables, for the admin and for looking. The layer itself speaks SQL, and other engines may lay the
tables out in other ways: nothing but these fields is promised, and nothing is to be written through them."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

__all__ = ["Process", "WaitingMessage"]


class WaitingMessage(models.Model):
    """A message that waits, or is leased."""

    id = models.BigIntegerField(primary_key=True)
    key = models.CharField("channel", max_length=200)
    attempt = models.SmallIntegerField()
    size = models.IntegerField("bytes")

    class Meta:
        managed = False
        db_table = "channels_msg"
        default_permissions = ("view",)
        verbose_name = "waiting message"
        ordering: ClassVar[list[str]] = ["key", "id"]

    def __str__(self) -> str:
        return f"{self.key} #{self.id}"


class Process(models.Model):
    """A process that holds a lease on the layer."""

    id = models.CharField(primary_key=True, max_length=26)
    kind = models.CharField(max_length=20)
    label = models.CharField(max_length=200)
    load = models.FloatField()

    class Meta:
        managed = False
        db_table = "channels_proc"
        default_permissions = ("view",)
        verbose_name_plural = "processes"

    def __str__(self) -> str:
        return f"{self.kind} {self.label}"
