"""What waits and who works, in Django's admin: to look at, not to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin

from channels_layer_database.models import Process, WaitingMessage

__all__ = ["ProcessAdmin", "WaitingMessageAdmin"]


if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin


class _ReadOnly(_ModelAdmin):
    actions = None

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False


@admin.register(WaitingMessage)
class WaitingMessageAdmin(_ReadOnly):
    """Messages by channel."""

    list_display = ("key", "attempt", "size")
    search_fields = ("key",)
    show_full_result_count = False


@admin.register(Process)
class ProcessAdmin(_ReadOnly):
    """Interface servers and workers."""

    list_display = ("label", "kind", "load", "id")
