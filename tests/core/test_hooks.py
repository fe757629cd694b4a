"""Each hook, from an installed distribution to the object that its name stands for."""

from typing import Any, Protocol, get_args

import pytest

from channels_core.layers import LayerBackend
from channels_core.middleware import ConsumerMiddleware
from channels_core.origins import OriginValidator
from channels_core.plugins import PluginManager
from channels_core.registrations import PluginKind
from channels_core.routing import Router
from channels_core.sessions import SessionStore


class Site(Protocol):
    def module(self, name: str, source: str) -> None: ...
    def plugin(self, distribution: str, body: str) -> None: ...
    def manager(self) -> PluginManager: ...


TARGETS = """
from channels_core.middleware import ConsumerMiddleware
from channels_core.origins import OriginValidator
from channels_core.routing import Router
from channels_core.sessions import SessionStore
from channels_layer_memory import MemoryBackend

class Backend(MemoryBackend):
    pass

class Table(Router):
    channels = async_channels = frozenset()
    def __init__(self, routing):
        self.routing = routing
    def match(self, message):
        return None

class Store(SessionStore):
    def load(self, key):
        return None
    create = save = delete = load

class Nobody(OriginValidator):
    def is_allowed(self, origin, host):
        return False

class Silent(ConsumerMiddleware):
    pass
"""


def load(site: Site, kind: PluginKind, hook: str, record: str, target: str) -> Any:
    """What a plugin of one hook registers as ``own``, asked for by that name."""
    site.module("own_targets", TARGETS)
    body = f"""
CHANNELS_API = 1

@hookimpl
def {hook}():
    yield {record}(name="own", target="own_targets:{target}", summary="of its own kind")
"""
    site.plugin("own-plugin", body)
    manager = site.manager()
    (entry,) = manager.registered()
    assert (entry.kind, entry.name, entry.registration.summary) == (kind, "own", "of its own kind")
    assert (entry.plugin.distribution, entry.plugin.version) == ("own-plugin", "1.0")
    for other in get_args(PluginKind):
        assert [found.name for found in manager.registered(other)] == (["own"] if other == kind else [])
    return manager.load(kind, "own")


def test_channels_register_layers(site: Site) -> None:
    found = load(site, "layer", "channels_register_layers", "LayerRegistration", "Backend")
    assert issubclass(found, LayerBackend)


def test_channels_register_routers(site: Site) -> None:
    found = load(site, "router", "channels_register_routers", "RouterRegistration", "Table")
    router = found({"chat": "routing"})
    assert isinstance(router, Router)
    assert vars(router) == {"routing": {"chat": "routing"}}


def test_channels_register_session_stores(site: Site) -> None:
    hook = "channels_register_session_stores"
    found = load(site, "session store", hook, "SessionStoreRegistration", "Store")
    assert isinstance(found(), SessionStore)


def test_channels_register_origin_validators(site: Site) -> None:
    hook = "channels_register_origin_validators"
    found = load(site, "origin validator", hook, "OriginValidatorRegistration", "Nobody")
    validator = found()
    assert isinstance(validator, OriginValidator)
    assert validator.is_allowed("https://example.com", None) is False


def test_channels_register_consumer_middleware(site: Site) -> None:
    hook = "channels_register_consumer_middleware"
    found = load(site, "consumer middleware", hook, "ConsumerMiddlewareRegistration", "Silent")
    assert isinstance(found(), ConsumerMiddleware)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_hook_may_yield_any_number_of_records(site: Site, number: int) -> None:
    body = f"""
@hookimpl
def channels_register_layers():
    for number in range({number}):
        yield LayerRegistration(name=f"layer-{{number}}", target="nowhere:Backend")
"""
    site.plugin("many-layers", body)
    assert [entry.name for entry in site.manager().registered("layer")] == [
        f"layer-{index}" for index in range(number)
    ]


def test_a_plugin_may_implement_several_hooks(site: Site) -> None:
    body = """
@hookimpl
def channels_register_layers():
    return [LayerRegistration(name="both", target="nowhere:Backend")]

@hookimpl
def channels_register_routers():
    return [RouterRegistration(name="both", target="nowhere:Table")]
"""
    site.plugin("both", body)
    assert [(entry.kind, entry.name) for entry in site.manager().registered()] == [
        ("layer", "both"),
        ("router", "both"),
    ]
