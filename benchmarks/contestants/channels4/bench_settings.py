"""Settings of Django Channels 4 with the layer that BENCH_ENGINE and BENCH_VARIANT choose, as their documents say."""

import os

VARIANT = os.environ.get("BENCH_VARIANT", "async")
ENGINE = os.environ.get("BENCH_ENGINE", "")
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    **{key: os.environ.get(f"BENCH_PG_{key}", "") for key in ("HOST", "PORT", "USER", "PASSWORD", "NAME")},
}

LAYERS = {
    "": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "valkey": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"
        if VARIANT == "pubsub"
        else "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [os.environ.get("BENCH_REDIS_URL", "")]},
    },
    "postgresql": {"BACKEND": "channels_postgres.core.PostgresChannelLayer", "CONFIG": POSTGRESQL},
    "sqlite": {
        "BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
        "CONFIG": {"database": "default"},
    },
}

ALLOWED_HOSTS = ["127.0.0.1"]
CHANNEL_LAYERS = {"default": LAYERS[ENGINE]}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEBUG = False
INSTALLED_APPS = ["channels"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "channels4_app"
SECRET_KEY = "for the bench only"
if ENGINE == "postgresql":
    DATABASES = {"default": POSTGRESQL, "channels_postgres": POSTGRESQL}
    INSTALLED_APPS.append("channels_postgres")
if ENGINE == "sqlite":
    DATABASES["default"] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BENCH_SQLITE_FILE", ""),
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000;"
        },
    }
    INSTALLED_APPS.append("channels_lite")
