"""Settings of the site that the Django tests (and the type checker) run against."""

from pathlib import Path

SECRET_KEY = "only-for-tests"  # a fixed key keeps signed cookies comparable between processes
DEBUG = False
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "testsite.urls"
INSTALLED_APPS = [
    "channels_django",
    "channels_delay",
    "channels_model_binding",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "testsite.bound",
]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "memory",
        "ROUTING": "testsite.routing.routes",
        "TEST_CONFIG": {"capacity": 10},
    },
}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
BASE_DIR = Path(__file__).parent
STATIC_URL = "static/"
