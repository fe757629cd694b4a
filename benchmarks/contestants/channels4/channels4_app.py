"""Django Channels 4 with the layer that bench_settings chooses, written the way its documentation shows.

BENCH_VARIANT chooses `async` consumers, `sync` ones, or the ablation `async-without-close`: async consumers with the
visit to a thread that closes old database connections after each dispatch taken out.  Nobody can ship that, since
connections would go stale; it shows what the visit costs.
"""

import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_settings")
django.setup()

from asgiref.sync import async_to_sync  # noqa: E402 - importable only once Django is set up
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer  # noqa: E402 - as above
from django.core.asgi import get_asgi_application  # noqa: E402 - as above
from django.http import HttpResponse  # noqa: E402 - as above
from django.urls import path  # noqa: E402 - as above

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 - as above

VARIANT = os.environ.get("BENCH_VARIANT", "async")
CLOSING_VISIT = "aclose_old_connections"


class AsyncEcho(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


class AsyncBroadcast(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("all", {"type": "said", "text": text_data})

    async def said(self, event):
        await self.send(text_data=event["text"])


class SyncEcho(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=text_data)


class SyncBroadcast(WebsocketConsumer):
    def connect(self):
        async_to_sync(self.channel_layer.group_add)("all", self.channel_name)
        self.accept()

    def receive(self, text_data=None, bytes_data=None):
        async_to_sync(self.channel_layer.group_send)("all", {"type": "said", "text": text_data})

    def said(self, event):
        self.send(text_data=event["text"])


async def no_visit():
    """What the ablation puts in the place of the visit."""


def take_the_closing_visit_out():
    """Replace the visit wherever a module of Channels has taken the name."""
    holders = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "channels" and hasattr(module, CLOSING_VISIT)
    ]
    if not holders:
        raise RuntimeError(
            f"No module of this Channels release has {CLOSING_VISIT!r}: the ablation would measure nothing new. "
            "Look for what closes old database connections after a dispatch in this release and name it here."
        )
    for module in holders:
        setattr(module, CLOSING_VISIT, no_visit)


def hello(request):
    return HttpResponse(b"hello world", content_type="text/plain")


if VARIANT == "async-without-close":
    take_the_closing_visit_out()

is_sync = VARIANT == "sync"
urlpatterns = [path("", hello)]
app = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("echo", (SyncEcho if is_sync else AsyncEcho).as_asgi()),
                path("broadcast", (SyncBroadcast if is_sync else AsyncBroadcast).as_asgi()),
            ]
        ),
    }
)
