"""The plugin manager: discovery, order, provenance, and what is looked up by name."""

import subprocess
import sys
import threading
from collections.abc import Iterable

import pytest

from channels_core import hookimpl
from channels_core.exceptions import (
    BrokenPluginError,
    ConflictingPluginsError,
    PluginError,
    UnknownPluginError,
)
from channels_core.layers import LayerBackend
from channels_core.plugins import PluginManager, PluginStatus, get_plugin_manager
from channels_core.registrations import (
    ConsumerMiddlewareRegistration,
    LayerRegistration,
    OriginValidatorRegistration,
    RouterRegistration,
    SessionStoreRegistration,
)

BACKEND = "from channels_core.layers import LayerBackend as Backend\n"


class Handmade:
    """A plugin object that implements every hook."""

    @hookimpl
    def channels_register_layers(self) -> Iterable[LayerRegistration]:
        yield LayerRegistration(name="pigeon", target="pigeons.layer:Pigeon")

    @hookimpl
    def channels_register_routers(self) -> Iterable[RouterRegistration]:
        yield RouterRegistration(name="table", target="pigeons.table:Table")

    @hookimpl
    def channels_register_session_stores(self) -> Iterable[SessionStoreRegistration]:
        return [SessionStoreRegistration(name="notebook", target="pigeons.notebook:Notebook")]

    @hookimpl
    def channels_register_origin_validators(self) -> Iterable[OriginValidatorRegistration]:
        return (OriginValidatorRegistration(name="intranet", target="pigeons.origins:Intranet"),)

    @hookimpl
    def channels_register_consumer_middleware(self) -> Iterable[ConsumerMiddlewareRegistration]:
        yield ConsumerMiddlewareRegistration(name="timing", target="pigeons.timing:Timing")


def test_every_hook_registers_its_kind(site) -> None:
    manager = site.manager()
    assert manager.register(Handmade(), name="handmade").state == "ok"
    assert [(entry.kind, entry.name) for entry in manager.registered()] == [
        ("layer", "pigeon"),
        ("router", "table"),
        ("session store", "notebook"),
        ("origin validator", "intranet"),
        ("consumer middleware", "timing"),
    ]
    assert manager.find("router", "table").registration.target == "pigeons.table:Table"


def test_plugins_come_in_order_of_distribution_then_entry_point_whatever_the_disk_says(site) -> None:
    site.layer("zebra", "zebra")
    site.layer("Ant", "ant")
    site.module(
        "mole_one",
        "from channels_core import hookimpl\n@hookimpl\ndef channels_register_layers(): return []\n",
    )
    site.module(
        "mole_two",
        "from channels_core import hookimpl\n@hookimpl\ndef channels_register_layers(): return []\n",
    )
    site.install("mole", entries={"second": "mole_two", "first": "mole_one"})
    plugins = site.manager().plugins
    assert [(plugin.distribution, plugin.name) for plugin in plugins] == [
        ("Ant", "main"),
        ("mole", "first"),
        ("mole", "second"),
        ("zebra", "main"),
    ]


def test_two_distributions_may_claim_one_entry_point_name(site) -> None:
    site.layer("first", "one", entry="same")
    site.layer("second", "two", entry="same")
    assert [entry.name for entry in site.manager().registered("layer")] == ["one", "two"]


def test_of_two_installations_of_one_distribution_the_first_on_the_path_counts(
    site, tmp_path, monkeypatch
) -> None:
    site.layer("twice", "new", version="2.0")
    other = tmp_path / "other" / "Twice-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: Twice\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[channels_core]\nold = nowhere_old\n")
    manager = PluginManager(search_path=[str(site.folder), str(other.parent)], environ={})
    assert [(plugin.name, plugin.version, plugin.state) for plugin in manager.plugins] == [
        ("main", "2.0", "ok")
    ]


def test_provenance_is_known(site) -> None:
    site.layer("channels-layer-acme", "acme", version="3.1")
    (entry,) = site.manager().registered("layer")
    assert str(entry.plugin) == "channels-layer-acme 3.1 (entry point 'main')"
    assert site.manager().statuses() == (
        PluginStatus(
            name="acme",
            kind="layer",
            distribution="channels-layer-acme",
            version="3.1",
            status="ok",
            reason="",
        ),
    )


def test_a_plugin_registered_by_hand_comes_last_and_says_so(site) -> None:
    site.layer("zebra", "zebra")
    manager = site.manager()
    plugin = manager.register(Handmade(), name="aardvark")
    assert [plugin.name for plugin in manager.plugins] == ["main", "aardvark"]
    assert str(plugin) == "plugin 'aardvark' (registered by hand)"
    assert (plugin.distribution, plugin.version) == (None, None)


def test_a_name_is_looked_up_within_its_kind(site) -> None:
    site.plugin(
        "acme",
        "@hookimpl\ndef channels_register_layers():\n    yield LayerRegistration(name='acme', target='a.b:Layer')\n"
        "@hookimpl\ndef channels_register_routers():\n    yield RouterRegistration(name='acme', target='a.b:Router')\n",
    )
    manager = site.manager()
    assert manager.find("layer", "acme").registration.target == "a.b:Layer"
    assert manager.find("router", "acme").registration.target == "a.b:Router"


def test_unknown_name_lists_what_there_is_and_suggests_the_nearest(site) -> None:
    site.layer("acme-redis", "redis")
    site.layer("acme-memory", "memory")
    site.layer("acme-database", "database")
    with pytest.raises(UnknownPluginError) as caught:
        site.manager().find("layer", "redsi")
    assert str(caught.value) == (
        "No plugin registers a layer named 'redsi'. Installed: database, memory, redis. Did you mean 'redis'?"
    )


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        (
            "layer",
            "redis",
            "No plugin registers a layer named 'redis'. Installed: none."
            " It comes with channels-layer-redis: run 'pip install channels-layer-redis'.",
        ),
        (
            "layer",
            "databse",
            "No plugin registers a layer named 'databse'. Installed: none. Did you mean 'database'?"
            " It comes with channels-layer-database: run 'pip install channels-layer-database'.",
        ),
        (
            "layer",
            "memory",
            "No plugin registers a layer named 'memory'. Installed: none."
            " It comes with channels-layer-memory: run 'pip install channels-layer-memory'.",
        ),
        (
            "router",
            "regex",
            "No plugin registers a router named 'regex'. Installed: none."
            " It comes with channels-router-regex: run 'pip install channels-router-regex'.",
        ),
        (
            "session store",
            "django",
            "No plugin registers a session store named 'django'. Installed: none."
            " It comes with channels-session-django: run 'pip install channels-session-django'.",
        ),
        (
            "origin validator",
            "allowed-hosts",
            "No plugin registers an origin validator named 'allowed-hosts'. Installed: none."
            " It comes with channels-origin-allowed-hosts: run 'pip install channels-origin-allowed-hosts'.",
        ),
        (
            "consumer middleware",
            "timing",
            "No plugin registers a consumer middleware named 'timing'. Installed: none.",
        ),
    ],
)
def test_unknown_name_says_what_to_install_where_that_is_known(site, kind, name, text) -> None:
    with pytest.raises(UnknownPluginError) as caught:
        site.manager().load(kind, name)
    assert str(caught.value) == text


def test_every_first_party_name_is_known_to_those_who_lack_it(site) -> None:
    first_party = [
        entry
        for entry in get_plugin_manager().registered()
        if entry.plugin.distribution and entry.plugin.distribution.startswith("channels-")
    ]
    assert len(first_party) >= 4
    for entry in first_party:
        with pytest.raises(UnknownPluginError) as caught:
            site.manager().find(entry.kind, entry.name)
        assert str(caught.value).endswith(f"run 'pip install {entry.plugin.distribution}'.")


def test_conflict_names_both_distributions_where_the_name_is_used(site) -> None:
    site.layer("acme", "redis", version="2.0")
    site.layer("bolt", "redis", version="0.3")
    site.layer("calm", "calm")
    manager = site.manager()
    assert manager.find("layer", "calm").name == "calm"
    with pytest.raises(ConflictingPluginsError) as caught:
        manager.find("layer", "redis")
    assert str(caught.value) == (
        "Layer 'redis' is registered more than once: by acme 2.0 (entry point 'main') with 'nowhere.redis:Backend'"
        " and bolt 0.3 (entry point 'main') with 'nowhere.redis:Backend'. Uninstall or block all but one"
        " (Config.blocked_plugins or CHANNELS_BLOCK_PLUGINS), or give the dotted path of the one you mean."
    )
    assert [(line.distribution, line.status, line.reason) for line in manager.statuses()] == [
        ("acme", "conflict", "also registered by bolt 0.3 (entry point 'main')"),
        ("bolt", "conflict", "also registered by acme 2.0 (entry point 'main')"),
        ("calm", "ok", ""),
    ]
    assert site.manager(blocked=["bolt"]).find("layer", "redis").plugin.distribution == "acme"


def test_a_plugin_that_registers_one_name_twice_conflicts_with_itself(site) -> None:
    site.plugin(
        "acme",
        "@hookimpl\ndef channels_register_layers():\n"
        "    yield LayerRegistration(name='a', target='a.b:One')\n"
        "    yield LayerRegistration(name='a', target='a.b:Two')\n",
    )
    manager = site.manager()
    with pytest.raises(ConflictingPluginsError, match=r"with 'a\.b:One' and acme 1\.0 .* with 'a\.b:Two'"):
        manager.find("layer", "a")
    assert {line.reason for line in manager.statuses()} == {
        "also registered by acme 1.0 (entry point 'main')"
    }


def test_load_imports_the_target_and_nothing_before_that(site) -> None:
    site.layer("acme", "acme")
    site.module("nowhere.acme", BACKEND)
    manager = site.manager()
    manager.statuses()
    manager.find("layer", "acme")
    assert "nowhere.acme" not in sys.modules
    assert manager.load("layer", "acme") is LayerBackend
    assert "nowhere.acme" in sys.modules


@pytest.mark.parametrize("path", ["elsewhere.layer.Backend", "elsewhere.layer:Backend"])
def test_a_dotted_path_is_accepted_wherever_a_name_is(site, path) -> None:
    site.module("elsewhere.layer", BACKEND)
    assert site.manager().load("layer", path) is LayerBackend


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        (
            "nix.layer.Backend",
            UnknownPluginError,
            "The choice of a layer names 'nix.layer.Backend', but there is no module 'nix'."
            " Correct the path, or give a registered name. Installed: acme.",
        ),
        (
            "elsewhere.layer.Bakend",
            UnknownPluginError,
            "The choice of a layer names 'elsewhere.layer.Bakend', but 'elsewhere.layer' has no attribute 'Bakend'"
            " (did you mean 'Backend'?). Correct the path, or give a registered name. Installed: acme.",
        ),
        (
            "elsewhere.broken.Backend",
            BrokenPluginError,
            "The choice of a layer names 'elsewhere.broken.Backend', and importing it failed: ModuleNotFoundError:"
            " No module named 'hiredis_of_old'. Correct the path, or give a registered name. Installed: acme.",
        ),
        (
            "elsewhere.layer:",
            UnknownPluginError,
            "The choice of a layer is 'elsewhere.layer:', which is no import string: write 'package.module:attribute'.",
        ),
        (
            "elsewhere.layer:Backend.send_batch",
            PluginError,
            "Layer 'elsewhere.layer:Backend.send_batch' is <function ",
        ),
        (
            "collections.OrderedDict",
            PluginError,
            "Layer 'collections.OrderedDict' is <class 'collections.OrderedDict'> (type): a layer is a subclass of"
            " channels_core.layers.LayerBackend.",
        ),
    ],
)
def test_a_dotted_path_that_leads_nowhere_says_where_it_ends(site, path, error, text) -> None:
    site.layer("acme", "acme")
    site.module("elsewhere.layer", BACKEND)
    site.module("elsewhere.broken", "import hiredis_of_old\n")
    with pytest.raises(error) as caught:
        site.manager().load("layer", path)
    assert str(caught.value).startswith(text)
    assert text[-1] != "." or str(caught.value) == text


@pytest.mark.parametrize("name", ["", None, 5, ["redis"]])
def test_something_that_is_no_name_is_refused(site, name) -> None:
    site.layer("acme", "acme")
    with pytest.raises(PluginError) as caught:
        site.manager().load("layer", name)
    assert str(caught.value) == (
        f"A layer is chosen by a registered name or by a dotted path, and {name!r} is neither. Installed: acme."
    )


def test_a_target_that_cannot_be_imported_names_its_distribution(site) -> None:
    site.layer("channels-layer-acme", "acme", version="3.1")
    site.module("nowhere.acme", "import hiredis_of_old\n")
    with pytest.raises(BrokenPluginError) as caught:
        site.manager().load("layer", "acme")
    assert str(caught.value) == (
        "Layer 'acme' of channels-layer-acme 3.1 (entry point 'main') names 'nowhere.acme:Backend', and importing it"
        " failed: ModuleNotFoundError: No module named 'hiredis_of_old'. Repair or uninstall channels-layer-acme, or"
        " block it (Config.blocked_plugins or CHANNELS_BLOCK_PLUGINS)."
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_target_without_its_attribute_names_its_distribution(site) -> None:
    site.layer("acme", "acme")
    site.module("nowhere.acme", "class Backand: pass\n")
    with pytest.raises(BrokenPluginError) as caught:
        site.manager().load("layer", "acme")
    assert str(caught.value) == (
        "Layer 'acme' of acme 1.0 (entry point 'main') names 'nowhere.acme:Backend', but 'nowhere.acme' has no"
        " attribute 'Backend' (did you mean 'Backand'?). Repair or uninstall acme, or block it"
        " (Config.blocked_plugins or CHANNELS_BLOCK_PLUGINS)."
    )


def test_a_target_of_another_kind_is_refused(site) -> None:
    manager = site.manager()
    manager.register(Handmade(), name="handmade")
    site.module("pigeons.layer", "class Pigeon: pass\n")
    site.module("pigeons.table", "Table = 5\n")
    site.module("pigeons.timing", "Timing = None\n")
    by_hand = "(registered by hand)"
    with pytest.raises(PluginError) as layer:
        manager.load("layer", "pigeon")
    assert str(layer.value) == (
        f"Layer 'pigeon' of plugin 'handmade' {by_hand}, 'pigeons.layer:Pigeon', is <class 'pigeons.layer.Pigeon'>"
        " (type): a layer is a subclass of channels_core.layers.LayerBackend."
    )
    with pytest.raises(PluginError) as router:
        manager.load("router", "table")
    assert str(router.value) == (
        f"Router 'table' of plugin 'handmade' {by_hand}, 'pigeons.table:Table', is 5 (int):"
        " a router is a class or factory that takes the value of ROUTING."
    )
    with pytest.raises(PluginError) as middleware:
        manager.load("consumer middleware", "timing")
    assert str(middleware.value) == (
        f"Consumer middleware 'timing' of plugin 'handmade' {by_hand}, 'pigeons.timing:Timing', is None (NoneType):"
        " a consumer middleware is a class or factory that takes no argument."
    )


def test_two_managers_live_side_by_side(site) -> None:
    site.layer("acme", "acme")
    plain, blocked = site.manager(), site.manager(blocked=["acme"])
    plain.register(Handmade(), name="handmade")
    assert [plugin.state for plugin in plain.plugins] == ["ok", "ok"]
    assert [plugin.state for plugin in blocked.plugins] == ["blocked"]


def test_many_threads_may_ask_first(site) -> None:
    for number in range(5):
        site.layer(f"acme-{number}", f"acme-{number}")
    manager = site.manager()
    start = threading.Barrier(8)
    seen = []

    def ask() -> None:
        start.wait()
        seen.append([entry.name for entry in manager.registered("layer")])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[f"acme-{number}" for number in range(5)]] * 8


def test_the_cached_manager_is_one_for_each_block_list(monkeypatch) -> None:
    monkeypatch.delenv("CHANNELS_BLOCK_PLUGINS", raising=False)
    assert get_plugin_manager() is get_plugin_manager(blocked=[])
    other = get_plugin_manager(("memory",))
    assert other is get_plugin_manager(["memory"])
    assert other is not get_plugin_manager()
    monkeypatch.setenv("CHANNELS_BLOCK_PLUGINS", "regex")
    assert get_plugin_manager(["memory"]) is not other


def test_listing_plugins_imports_nothing_heavy() -> None:
    heavy = ("django", "redis", "asyncpg", "uvicorn", "asgiref", "websockets", "pytest", "hypothesis")
    code = (
        "import sys\n"
        "from channels_core.plugins import get_plugin_manager\n"
        "print(len(get_plugin_manager().statuses()))\n"
        f"print(*[name for name in {heavy} if name in sys.modules])\n"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    count, heavy_found = output.split("\n")[:2]
    assert int(count) >= 4
    assert heavy_found == ""
