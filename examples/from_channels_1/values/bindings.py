"""What is saved goes to every open table, and what a table sends is saved."""

from channels.binding.websockets import WebsocketBinding
from values.models import IntegerValue


class IntegerValueBinding(WebsocketBinding):
    model = IntegerValue
    stream = "intval"
    fields = ["name", "value"]

    @classmethod
    def group_names(cls, instance):
        return ["intval-updates"]

    def has_permission(self, user, action, pk):
        """Who has signed in may change numbers; only staff may take rows away."""
        return user.is_staff if action == "delete" else user.is_authenticated
