"""Where rooms are made."""

from django.contrib import admin

from multichat.models import Room

admin.site.register(Room)
