"""Forms of the site."""

from typing import Any

from django import forms
from django.utils.text import slugify

from chat.models import Room


class RoomForm(forms.ModelForm):
    """Open a room; its address is made from its title."""

    class Meta:
        model = Room
        fields = ["title", "topic"]

    def clean(self) -> dict[str, Any]:
        """Make the address, and refuse a title that gives none or one that is taken."""
        cleaned = super().clean() or {}
        if title := cleaned.get("title"):
            self.instance.slug = slugify(title)[:50].strip("-")
            if not self.instance.slug:
                self.add_error(
                    "title", "Use some letters from a to z or digits: the room's address is made of them."
                )
            elif Room.objects.filter(slug=self.instance.slug).exists():
                self.add_error("title", "There is a room with this address already.")
        return cleaned
