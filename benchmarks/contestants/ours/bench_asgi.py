"""The interface application for any ASGI server; without worker processes beside it also the worker's threads, as
runserver has them.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_settings")

from channels_django.asgi import get_asgi_application

app = get_asgi_application()
if os.environ.get("BENCH_WORKERS", "0") == "0":
    import django

    django.setup()

    from channels_core import channel_layers
    from channels_django.workers import make_worker

    worker = make_worker(channel_layers["default"])
    worker.start()
