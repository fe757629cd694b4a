"""The hooks a plugin implements. Hooks register and do nothing else: no message ever passes through one.

A plugin is a module named by an entry point of the group ``channels_core``. It is found once per process, in order
of distribution name and entry-point name, and its hooks are called once. Each hook yields records; all plugins'
records count, and a name registered twice is an error wherever that name is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pluggy

from channels_core.registrations import (
    ConsumerMiddlewareRegistration,
    LayerRegistration,
    OriginValidatorRegistration,
    RouterRegistration,
    SessionStoreRegistration,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "PROJECT_NAME",
    "channels_register_consumer_middleware",
    "channels_register_layers",
    "channels_register_origin_validators",
    "channels_register_routers",
    "channels_register_session_stores",
    "hookimpl",
    "hookspec",
]

PROJECT_NAME: Final = "channels_core"
ENTRY_POINT_GROUP: Final = "channels_core"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)
"""Marks a function of a plugin module as the implementation of the hook it is named after."""


@hookspec
def channels_register_layers() -> Iterable[LayerRegistration]:  # type: ignore[empty-body]  # a specification
    """Register layer backends; asked once, before the first layer is made.

    A whole plugin, with the entry point ``carrier-pigeon = "pigeons.plugin"`` in group ``channels_core``::

        # pigeons/plugin.py
        from channels_core import hookimpl
        from channels_core.registrations import LayerRegistration

        @hookimpl
        def channels_register_layers():
            yield LayerRegistration(
                name="carrier-pigeon",
                target="pigeons.layer:PigeonBackend",
                summary="RFC 1149, at-most-once",
            )

    People then write ``CHANNEL_LAYERS = {"default": {"BACKEND": "carrier-pigeon", ...}}``.
    """


@hookspec
def channels_register_routers() -> Iterable[RouterRegistration]:  # type: ignore[empty-body]  # a specification
    """Register routers; asked once, before the first worker starts.

    ::

        @hookimpl
        def channels_register_routers():
            yield RouterRegistration(name="table", target="table_router.router:TableRouter")

    People choose it by ``"ROUTER": "table"`` beside ``ROUTING`` in a layer's settings.
    """


@hookspec
def channels_register_session_stores() -> Iterable[SessionStoreRegistration]:  # type: ignore[empty-body]  # a specification
    """Register session stores; asked once, before the first channel session is opened.

    ::

        @hookimpl
        def channels_register_session_stores():
            yield SessionStoreRegistration(name="notebook", target="notebook.store:NotebookStore")

    People choose it by ``CHANNELS = {"SESSION_STORE": "notebook"}``.
    """


@hookspec
def channels_register_origin_validators() -> Iterable[OriginValidatorRegistration]:  # type: ignore[empty-body]  # a specification
    """Register origin validators; asked once, when the interface application is made.

    ::

        @hookimpl
        def channels_register_origin_validators():
            yield OriginValidatorRegistration(name="intranet", target="intranet.origins:IntranetOnly")

    People choose it by ``CHANNELS = {"ORIGIN_VALIDATOR": "intranet"}``.
    """


@hookspec
def channels_register_consumer_middleware() -> Iterable[ConsumerMiddlewareRegistration]:  # type: ignore[empty-body]  # a specification
    """Register consumer middleware; asked once, when a worker starts. Registered is not yet active.

    ::

        @hookimpl
        def channels_register_consumer_middleware():
            yield ConsumerMiddlewareRegistration(name="timing", target="timing.middleware:Timing")

    People activate and order it by ``CHANNELS = {"CONSUMER_MIDDLEWARE": ["timing"]}``.
    """
