"""Test tools for projects: consumers run one message at a time, in the test's own thread, on a layer in memory; or the
whole site runs, with server and workers."""

from channels_django.testing.cases import ChannelTestCase, TransactionChannelTestCase
from channels_django.testing.client import Client
from channels_django.testing.live import ChannelLiveServerTestCase
from channels_django.testing.routes import apply_routes
from channels_django.testing.websocket import HttpClient, WSClient

__all__ = [
    "ChannelLiveServerTestCase",
    "ChannelTestCase",
    "Client",
    "HttpClient",
    "TransactionChannelTestCase",
    "WSClient",
    "apply_routes",
]
