"""Which consumers get which messages; each application has its own routes."""

from channels import include

channel_routing = [
    include("liveblog.routing.channel_routing", path=r"^/liveblog"),
    include("multichat.routing.websocket_routing", path=r"^/chat/stream"),
    include("multichat.routing.custom_routing"),
    include("values.routing.channel_routing", path=r"^/values"),
]
