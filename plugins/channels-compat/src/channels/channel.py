"""Channels and groups."""

from channels_core import Channel, Group

__all__ = ["Channel", "Group"]
