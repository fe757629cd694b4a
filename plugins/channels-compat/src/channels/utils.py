"""Names for things, in logs."""

from __future__ import annotations

__all__ = ["name_that_thing"]


def name_that_thing(thing: object) -> str:
    """Module and qualified name of a function, method or class, of an object those of its class; else its ``repr``."""
    name = getattr(thing, "__qualname__", None)
    if name is None:
        return repr(thing) if type(thing).__module__ == "builtins" else name_that_thing(type(thing))
    owner = getattr(thing, "__self__", None)
    if owner is not None:  # a method is named after what it is called on, which may be a subclass
        owner = owner if isinstance(owner, type) else type(owner)
        return f"{owner.__module__}.{owner.__qualname__}.{name.rpartition('.')[2]}"
    return f"{thing.__module__}.{name}"
