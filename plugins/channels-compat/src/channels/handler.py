"""HTTP through the layer."""

from channels_django.http import AsgiHandler, AsgiRequest, ViewConsumer

__all__ = ["AsgiHandler", "AsgiRequest", "ViewConsumer"]
