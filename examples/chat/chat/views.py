"""The pages: plain Django views. Talking itself goes over the room's socket, see consumers.py."""

from django.contrib.auth import login
from django.contrib.auth.forms import UserCreationForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_safe

from chat import presence
from chat.forms import RoomForm
from chat.frames import MAX_TEXT
from chat.models import Room
from chat.names import make_up_name


@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest) -> HttpResponse:
    """List the rooms; whoever is signed in may open another one."""
    if request.method == "POST" and not request.user.is_authenticated:
        return redirect("login")
    form = RoomForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        return redirect(form.save())
    rooms = [(room, presence.count(room)) for room in Room.objects.all()]
    return render(request, "chat/index.html", {"rooms": rooms, "form": form})


@require_safe
def room(request: HttpRequest, slug: str) -> HttpResponse:
    """Show a room. A visitor who is not signed in gets a made-up name that stays for the session."""
    current = Room.objects.filter(slug=slug).first()
    if current is None:
        return render(request, "404.html", status=404)
    if not request.user.is_authenticated and "guest_name" not in request.session:
        request.session["guest_name"] = make_up_name()
    return render(
        request, "chat/room.html", {"room": current, "rooms": Room.objects.all(), "max_text": MAX_TEXT}
    )


@require_http_methods(["GET", "HEAD", "POST"])
def sign_up(request: HttpRequest) -> HttpResponse:
    """Make an account and sign in with it."""
    form = UserCreationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        login(request, form.save())
        target = request.POST.get("next", "")
        safe = url_has_allowed_host_and_scheme(
            target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        )
        return redirect(target if safe else "index")
    return render(request, "registration/sign_up.html", {"form": form})
