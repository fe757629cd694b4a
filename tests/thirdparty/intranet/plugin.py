from channels_core import hookimpl
from channels_core.registrations import OriginValidatorRegistration

CHANNELS_API = 1


@hookimpl
def channels_register_origin_validators():  # type: ignore[no-untyped-def]  # as authors may write it
    yield OriginValidatorRegistration(name="intranet", target="intranet.origins:IntranetOnly")
