"""The chat as a Django application."""

from django.apps import AppConfig


class ChatConfig(AppConfig):
    """Rooms, what was said in them, and who is there."""

    name = "chat"
