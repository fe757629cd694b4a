"""The application: ``"channels"`` in ``INSTALLED_APPS`` is ``"channels_django"``, so only one of them is listed."""

from channels_django.apps import ChannelsConfig as _ChannelsConfig

__all__ = ["ChannelsConfig"]


class ChannelsConfig(_ChannelsConfig):
    """The one that ``"channels"`` stands for: commands, checks and signals are those of ``channels_django``."""

    default = True
