"""Models bound to groups."""

from channels_model_binding import CREATE, DELETE, UPDATE, Binding, BindingMetaclass

__all__ = ["CREATE", "DELETE", "UPDATE", "Binding", "BindingMetaclass"]
