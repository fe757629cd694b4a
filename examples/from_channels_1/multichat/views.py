"""The page with the rooms."""

from django.contrib.auth.decorators import login_required
from django.shortcuts import render

from multichat.models import Room


@login_required
def rooms(request):
    found = Room.objects.order_by("title")
    if not request.user.is_staff:
        found = found.filter(staff_only=False)
    return render(request, "multichat/rooms.html", {"rooms": found})
