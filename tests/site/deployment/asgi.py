"""What the ASGI servers serve."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deployment.settings")

from channels_django import get_asgi_application

application = get_asgi_application()
