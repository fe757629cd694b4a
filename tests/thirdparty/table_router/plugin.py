from channels_core import hookimpl
from channels_core.registrations import RouterRegistration

CHANNELS_API = 1


@hookimpl
def channels_register_routers():  # type: ignore[no-untyped-def]  # as authors may write it
    yield RouterRegistration(
        name="table", target="table_router.router:TableRouter", summary="A dict and nothing else"
    )
