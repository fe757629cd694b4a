"""The application ``channels_delay``: its table and its system checks."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["DelayConfig"]


class DelayConfig(AppConfig):
    """Put ``"channels_delay"`` into ``INSTALLED_APPS``, behind ``"channels_django"``."""

    name = "channels_delay"
    label = "channels_delay"
    verbose_name = "Delayed messages"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have Django run the checks."""
        from channels_delay import checks

        checks.register()
