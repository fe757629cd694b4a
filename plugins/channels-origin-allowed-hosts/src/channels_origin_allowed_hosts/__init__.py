"""Lets WebSockets in only from origins that Django's ALLOWED_HOSTS names."""

from channels_origin_allowed_hosts.consumers import (
    AllowedHostsOnlyOriginValidator,
    BaseOriginValidator,
    allowed_hosts_only,
)
from channels_origin_allowed_hosts.origins import AllowedHosts

__all__ = ["AllowedHosts", "AllowedHostsOnlyOriginValidator", "BaseOriginValidator", "allowed_hosts_only"]
