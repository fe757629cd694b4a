"""Class-based consumers."""

from channels_django.generic import BaseConsumer

__all__ = ["BaseConsumer"]
