"""Static files in development."""

from channels_django.staticfiles import StaticFilesConsumer, StaticFilesHandler

__all__ = ["StaticFilesConsumer", "StaticFilesHandler"]
