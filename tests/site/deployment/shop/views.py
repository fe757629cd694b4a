"""Takes an order over HTTP: saves it, sends a message about it, and fails when it is told to."""

import itertools
from typing import Any

from django.db import connection
from django.db.backends.signals import connection_created
from django.http import HttpRequest, JsonResponse

from channels_core import Channel
from deployment.shop.clerk import ChangedMind
from deployment.shop.models import Order

_numbers = itertools.count(1)
_opened: dict[int, int] = {}
"""For each of Django's connections, what number it had among those that this process opened."""


def number_connection(connection: Any, **_: Any) -> None:
    _opened[id(connection.connection)] = next(_numbers)


connection_created.connect(number_connection)


def order(request: HttpRequest, number: int) -> JsonResponse:
    """``?send=transactional`` or ``plain``, ``&fails=1``. Says which connection the order was saved on."""
    Order.objects.create(number=number)
    transactional = request.GET["send"] == "transactional"
    Channel("orders").send({"number": number}, transactional=transactional)
    if "fails" in request.GET:
        raise ChangedMind(f"order {number}")
    return JsonResponse(
        {"connection": _opened[id(connection.connection)], "atomic": connection.in_atomic_block}
    )
