"""An application whose models are bound to groups. It has no migrations: tests make its tables."""

from django.apps import AppConfig


class Bound(AppConfig):
    name = "testsite.bound"
    label = "bound"
