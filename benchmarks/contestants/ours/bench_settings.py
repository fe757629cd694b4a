"""Settings of this project's contestant: as shipped, DEBUG off, no sessions."""

import os

VARIANT = os.environ.get("BENCH_VARIANT", "sync")

ALLOWED_HOSTS = ["127.0.0.1"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "memory",
        "ROUTING": "bench_routing.async_routes" if VARIANT == "async" else "bench_routing.routes",
    }
}
CHANNELS = {"HTTP": "in-process"} if VARIANT == "in-process" else {}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEBUG = False
INSTALLED_APPS = ["channels_django"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "bench_urls"
SECRET_KEY = "for the bench only"
