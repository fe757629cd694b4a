"""The ASGI application for production servers: ``application = get_asgi_application()`` in the project's asgi.py.

The interface server holds the sockets and knows nothing of the project but its settings: ``django.setup()`` is not
called and no application is imported, unless ``CHANNELS["HTTP"]`` is ``"in-process"``. So it hardly ever needs a
restart when the project's code changes.
"""

from __future__ import annotations

import logging
from typing import Any

from channels_core.interface import InterfaceApplication, make_interface
from channels_django import conf

__all__ = ["get_asgi_application"]

logger = logging.getLogger("channels.interface")


def get_asgi_application() -> InterfaceApplication:
    """The ASGI 3 application that serves HTTP and WebSockets through the layer that the settings name.

    Workers answer: ``python manage.py runworker``, in other processes. Reads the settings module named by
    ``DJANGO_SETTINGS_MODULE``.

    Raises :class:`~channels_core.exceptions.ConfigurationError` for settings that are wrong.
    """
    conf.configure()
    http: Any = None  # Django types its handlers as taking a dict, not any mapping
    if conf.http_mode() == "in-process":
        from django.core.asgi import get_asgi_application as get_django_application

        http = get_django_application()
    application = make_interface(http=http)
    if application.layer.backend.local_only:
        logger.warning(
            "The channel layer %r keeps its messages inside this process, so no runworker process can answer what this"
            " server receives. Name a layer that reaches across processes as its BACKEND, or use runserver.",
            application.layer.alias,
        )
    return application
