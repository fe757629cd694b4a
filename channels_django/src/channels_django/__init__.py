"""Channels, consumers and workers for Django, with the programming model of Channels 1.x."""

__all__: list[str] = []
