"""Settings of this project's contestant: as shipped, DEBUG off, no sessions."""

import os
from typing import Any

VARIANT = os.environ.get("BENCH_VARIANT", "sync")
ENGINE = os.environ.get("BENCH_ENGINE", "")

LAYERS: dict[str, dict[str, Any]] = {
    "": {"BACKEND": "memory"},
    "valkey": {"BACKEND": "redis", "CONFIG": {"hosts": [os.environ.get("BENCH_REDIS_URL", "")]}},
    "postgresql": {"BACKEND": "database"},
    "mariadb": {"BACKEND": "database"},
    "sqlite": {"BACKEND": "database"},
}
LAYER = LAYERS[ENGINE]
if VARIANT.endswith("at-least-once"):
    LAYER = {**LAYER, "CONFIG": {**LAYER.get("CONFIG", {}), "delivery": {"*": "at-least-once"}}}

ALLOWED_HOSTS = ["127.0.0.1"]
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        **LAYER,
        "ROUTING": "bench_routing.async_routes" if VARIANT.startswith("async") else "bench_routing.routes",
    }
}
if VARIANT == "expired":
    CHANNEL_LAYERS["empty"] = {**CHANNEL_LAYERS["default"], "CONFIG": {"prefix": "empty_"}}
CHANNELS = {"HTTP": "in-process"} if VARIANT == "in-process" else {}
DATABASES: dict[str, dict[str, Any]] = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
}
if ENGINE == "postgresql":
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.postgresql",
        **{
            key: os.environ.get(f"BENCH_PG_{key}", "") for key in ("HOST", "PORT", "USER", "PASSWORD", "NAME")
        },
    }
if ENGINE == "mariadb":
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.mysql",
        "HOST": os.environ.get("BENCH_MARIADB_SOCKET", ""),
        "USER": "root",
        "NAME": os.environ.get("BENCH_MARIADB_NAME", ""),
    }
if ENGINE == "sqlite":
    DATABASES["default"]["NAME"] = os.environ.get("BENCH_SQLITE_FILE", "")
DEBUG = False
INSTALLED_APPS = ["channels_django"]
if ENGINE in {"postgresql", "mariadb", "sqlite"}:
    INSTALLED_APPS.append("channels_layer_database")
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "bench_urls"
SECRET_KEY = "for the bench only"
