"""Models bound to groups of WebSockets."""

from channels_model_binding import WebsocketBinding, WebsocketBindingWithMembers

__all__ = ["WebsocketBinding", "WebsocketBindingWithMembers"]
