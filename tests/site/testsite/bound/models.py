"""A table of things to buy, with every kind of field that a binding treats in its own way."""

import uuid
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models


class Shop(models.Model):
    name = models.CharField(max_length=20)

    def shout(self) -> str:
        return self.name.upper()


class Label(models.Model):
    text = models.CharField(max_length=20)


class Item(models.Model):
    title = models.CharField(max_length=20)
    code = models.CharField(max_length=8, unique=True, null=True, blank=True)
    count = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=6, decimal_places=2, default=0)
    wanted = models.DateTimeField(null=True, blank=True)
    secret = models.CharField(max_length=20, default="kept")
    computed = models.CharField(max_length=20, editable=False, default="")
    picture = models.FileField(blank=True)
    changed = models.DateTimeField(auto_now=True)
    made = models.DateTimeField(auto_now_add=True)
    shop = models.ForeignKey(Shop, on_delete=models.CASCADE, null=True, blank=True)
    labels = models.ManyToManyField(Label, related_name="items", blank=True)

    size = 3

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.computed = f"{self.title} x {self.count}"
        super().save(*args, **kwargs)

    def clean(self) -> None:
        if self.count == 13:
            raise ValidationError("Not thirteen.")

    @property
    def total(self) -> str:
        return str(self.price * self.count)


class Ticket(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    room = models.CharField(max_length=20)


class Book(Item):
    """An item with more of its own, in a second table."""

    author = models.CharField(max_length=20)
    topics = models.ManyToManyField(Label, related_name="books", blank=True)


class Bargain(Item):
    """Items under another name."""

    class Meta:
        proxy = True


class Reading(models.Model):
    """What a sensor of a shop measured; a shop may close before its readings are loaded."""

    shop = models.ForeignKey(Shop, on_delete=models.CASCADE)
    degrees = models.FloatField()
    details = models.JSONField(default=dict)
    sensor = models.CharField(max_length=20)
