"""Two-way binding of models to groups of WebSockets: what is saved goes to a group, what a client sends is saved.

Put ``"channels_model_binding"`` into ``INSTALLED_APPS`` and bindings into each application's ``bindings.py``.
Importable before Django is set up.
"""

from __future__ import annotations

from channels_model_binding.binding import CREATE, DELETE, UPDATE, Binding, BindingMetaclass
from channels_model_binding.websockets import WebsocketBinding, WebsocketBindingWithMembers

__version__ = "0.1.0"

__all__ = [
    "CREATE",
    "DELETE",
    "UPDATE",
    "Binding",
    "BindingMetaclass",
    "WebsocketBinding",
    "WebsocketBindingWithMembers",
]
