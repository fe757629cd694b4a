from channels_core import hookimpl
from channels_core.registrations import LayerRegistration

CHANNELS_API = 1


@hookimpl
def channels_register_layers():  # type: ignore[no-untyped-def]  # as authors may write it
    yield LayerRegistration(name="sqlite", target="sqlite_layer.layer:SqliteBackend", summary="One file")
