"""Delayed messages: ``"channels.delay"`` in ``INSTALLED_APPS`` is ``"channels_delay"``."""

__all__: list[str] = []
