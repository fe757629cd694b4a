"""Settings of the deployed site: what differs from run to run comes as JSON in the variable DEPLOYMENT."""

import json
import os
from typing import Any

_GIVEN: dict[str, Any] = json.loads(os.environ["DEPLOYMENT"])

SECRET_KEY = "of a test"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "deployment.urls"
USE_TZ = True
INSTALLED_APPS = ["channels_django", *_GIVEN.get("apps", [])]
MIDDLEWARE: list[str] = []
DATABASES = _GIVEN.get("databases", {})
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SESSION_ENGINE = "django.contrib.sessions.backends.file"
SESSION_FILE_PATH = _GIVEN["sessions"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": _GIVEN["backend"],
        "ROUTING": _GIVEN["routing"],
        "CONFIG": _GIVEN["config"],
    }
}
CHANNELS = _GIVEN.get("channels", {})
