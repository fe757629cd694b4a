"""The application: ``"channels"`` in ``INSTALLED_APPS`` is ``"channels_django"``, so only one of them is listed."""

from channels_django.apps import ChannelsConfig as _ChannelsConfig
from channels_model_binding.binding import BindingMetaclass

__all__ = ["ChannelsConfig"]


class ChannelsConfig(_ChannelsConfig):
    """The one that ``"channels"`` stands for: commands, checks and signals are those of ``channels_django``."""

    default = True

    def ready(self) -> None:
        """Connect the bindings too, which were part of this application in Channels 1.x."""
        super().ready()
        BindingMetaclass.register_all()
