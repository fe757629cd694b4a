"""Static files in development: a consumer that answers for STATIC_URL itself and leaves the rest to the views."""

from __future__ import annotations

from urllib.parse import urlparse

from django.contrib.staticfiles.handlers import StaticFilesHandlerMixin
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from channels_django.http import AsgiHandler, ViewConsumer

__all__ = ["StaticFilesConsumer", "StaticFilesHandler"]


class StaticFilesHandler(StaticFilesHandlerMixin, AsgiHandler):
    """An :class:`~channels_django.http.AsgiHandler` that finds static files as ``collectstatic`` would."""

    def load_middleware(self, is_async: bool = False) -> None:
        """The views' middleware; the mixin leaves that to another handler, which there is not here."""
        self.base_url = urlparse(self.get_base_url())
        AsgiHandler.load_middleware(self, is_async)

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        """The file, where the path is under STATIC_URL; else what the views say."""
        if self._should_handle(request.path):
            return StaticFilesHandlerMixin.get_response(self, request)
        return AsgiHandler.get_response(self, request)


class StaticFilesConsumer(ViewConsumer):
    """A :class:`~channels_django.http.ViewConsumer` with static files; for development only."""

    handler_class = StaticFilesHandler
