"""Interface application and worker threads in one process, as runserver has them, for any ASGI server."""

import os

import django

from channels_core import channel_layers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_settings")
django.setup()

from channels_django.asgi import get_asgi_application  # noqa: E402 - reads the settings
from channels_django.workers import make_worker  # noqa: E402 - importable only once Django is set up

app = get_asgi_application()
worker = make_worker(channel_layers["default"])
worker.start()
