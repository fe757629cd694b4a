"""The table of delayed messages."""

from channels_delay.models import DelayedMessage

__all__ = ["DelayedMessage"]
