"""What a production server loads: `uvicorn chatsite.asgi:application`, beside `python manage.py runworker`.

Both need a layer that reaches across processes; the demo's memory layer does not.
"""

import os

from channels_django import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")

application = get_asgi_application()
