"""Orders, and what was done about each."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    number = models.IntegerField(unique=True)
    objects: models.Manager[Order] = models.Manager()

    class Meta:
        app_label = "shop"


class Attempt(models.Model):
    """The consumer was called for an order."""

    number = models.IntegerField()
    objects: models.Manager[Attempt] = models.Manager()

    class Meta:
        app_label = "shop"


class Receipt(models.Model):
    """What the consumer is there for; its number is the key that makes it happen once."""

    number = models.IntegerField(primary_key=True)
    objects: models.Manager[Receipt] = models.Manager()

    class Meta:
        app_label = "shop"
