"""Registers the router "regex"."""

from collections.abc import Iterable

from channels_core.hookspecs import hookimpl
from channels_core.registrations import RouterRegistration

CHANNELS_API = 1


@hookimpl
def channels_register_routers() -> Iterable[RouterRegistration]:
    """Register the router that ``ROUTER`` names by default."""
    yield RouterRegistration(
        name="regex",
        target="channels_router_regex.router:Router",
        summary="Channel names, and regular expressions over message content",
    )
