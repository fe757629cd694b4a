"""Which consumer gets which message. Pages have their own table: chatsite/urls.py."""

from channels_router_regex import include, route
from chat import consumers

room_routes = [
    route("websocket.connect", consumers.enter),
    route("websocket.receive", consumers.hear),
    route("websocket.disconnect", consumers.leave),
]

routes = [
    include(room_routes, path=r"^/rooms/(?P<slug>[^/]+)/ws$"),
    route("websocket.connect", consumers.refuse),
]
