"""A number with a name, which a table shows."""

from django.db import models


class IntegerValue(models.Model):
    name = models.CharField(max_length=100, unique=True)
    value = models.IntegerField(default=0)

    def __str__(self):
        return self.name
