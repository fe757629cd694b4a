"""Registers the origin validator "allowed-hosts"."""

from collections.abc import Iterable

from channels_core.hookspecs import hookimpl
from channels_core.registrations import OriginValidatorRegistration

CHANNELS_API = 1


@hookimpl
def channels_register_origin_validators() -> Iterable[OriginValidatorRegistration]:
    """Register the validator that ``ORIGIN_VALIDATOR`` names by default."""
    yield OriginValidatorRegistration(
        name="allowed-hosts",
        target="channels_origin_allowed_hosts.origins:AllowedHosts",
        summary="Pages of the hosts in Django's ALLOWED_HOSTS",
    )
