"""The application that ``"channels.delay"`` stands for."""

from channels_delay.apps import DelayConfig as _DelayConfig

__all__ = ["DelayConfig"]


class DelayConfig(_DelayConfig):
    """Table, command and checks are those of ``channels_delay``."""

    default = True
