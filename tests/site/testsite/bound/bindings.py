"""Bindings of this application, found by being called so."""

from collections.abc import Iterable
from typing import Any

from channels_model_binding import WebsocketBinding
from testsite.bound.models import Ticket


class TicketBinding(WebsocketBinding):
    """Each room hears of its own tickets."""

    model = Ticket
    stream = "tickets"
    fields = ("__all__",)

    @classmethod
    def group_names(cls, instance: Any) -> Iterable[str]:
        return [f"room.{instance.room}"]

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        return True
