"""Writes a receipt for each order, effectively once, however often it is called."""

from typing import Any

from django.db import IntegrityError, transaction

from channels_router_regex import route
from deployment.shop.models import Attempt, Receipt


def write_receipt(message: Any) -> None:
    Attempt.objects.create(number=message["number"])
    try:
        with transaction.atomic():
            Receipt.objects.create(number=message["number"])
    except IntegrityError:
        return


routes = [route("orders", write_receipt)]
