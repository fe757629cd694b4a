"""The application ``channels_model_binding``: finds the project's bindings and connects them."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules

from channels_model_binding.binding import BindingMetaclass

__all__ = ["ModelBindingConfig"]


class ModelBindingConfig(AppConfig):
    """Put ``"channels_model_binding"`` into ``INSTALLED_APPS``.

    The module ``bindings`` of every application is imported, so that what is saved goes out from every process that
    has set Django up: views, workers, task queues and the shell alike.
    """

    name = "channels_model_binding"
    label = "channels_model_binding"
    verbose_name = "Model binding"

    def ready(self) -> None:
        """Connect the bindings there are, and those that come later when they are made."""
        autodiscover_modules("bindings")
        BindingMetaclass.register_all()
