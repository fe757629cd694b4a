"""Lets WebSockets in only from origins that Django's ALLOWED_HOSTS names.

Listing the plugins imports this module, and that must not import Django: each name is fetched when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels_origin_allowed_hosts.consumers import (
        AllowedHostsOnlyOriginValidator,
        BaseOriginValidator,
        allowed_hosts_only,
    )
    from channels_origin_allowed_hosts.origins import AllowedHosts

__all__ = ["AllowedHosts", "AllowedHostsOnlyOriginValidator", "BaseOriginValidator", "allowed_hosts_only"]

_MODULES = {
    "AllowedHosts": "origins",
    "AllowedHostsOnlyOriginValidator": "consumers",
    "BaseOriginValidator": "consumers",
    "allowed_hosts_only": "consumers",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
