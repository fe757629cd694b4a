"""Plugins that cannot be used: broken, incompatible or blocked ones harm nobody and are named to who needs them."""

import importlib
import sys
import types

import pytest

from channels_core.exceptions import (
    BrokenPluginError,
    IncompatiblePluginError,
    PluginError,
    UnknownPluginError,
)

PLUGIN_HEAD = "from channels_core import hookimpl\nfrom channels_core.registrations import *\n"
LAYERS = "@hookimpl\ndef channels_register_layers():\n"
GOOD = "    yield LayerRegistration(name='acme', target='a.b:C')\n"

BROKEN = {
    "missing requirement": (
        "import hiredis_of_old\n",
        "it cannot be imported: ModuleNotFoundError: No module named 'hiredis_of_old'",
    ),
    "syntax": ("def (\n", "it cannot be imported: SyntaxError: invalid syntax (acme_plugin.py, line 4)"),
    "exit at import": ("import sys; sys.exit('bye')\n", "it cannot be imported: SystemExit: bye"),
    "hook raises": (
        LAYERS + "    raise ValueError('boom')\n",
        "its hook channels_register_layers failed: ValueError: boom",
    ),
    "hook raises at once": (
        LAYERS + "    return 1 / 0\n",
        "its hook channels_register_layers failed: ZeroDivisionError: division by zero",
    ),
    "hook exits": (
        LAYERS + "    raise SystemExit(3)\n",
        "its hook channels_register_layers failed: SystemExit: 3",
    ),
    "fails while iterated": (
        LAYERS + GOOD + "    raise RuntimeError('half way')\n",
        "its hook channels_register_layers failed after yielding 1: RuntimeError: half way",
    ),
    "another record": (
        LAYERS + "    yield RouterRegistration(name='acme', target='a.b:C')\n",
        "its hook channels_register_layers yielded RouterRegistration(name='acme', target='a.b:C', summary=''),"
        " not a LayerRegistration",
    ),
    "no record": (
        LAYERS + "    yield 'acme'\n",
        "its hook channels_register_layers yielded 'acme', not a LayerRegistration",
    ),
    "text": (
        LAYERS + "    return 'acme'\n",
        "its hook channels_register_layers returned 'acme', not an iterable of LayerRegistration",
    ),
    "one record": (
        LAYERS + GOOD.replace("yield", "return"),
        "its hook channels_register_layers returned LayerRegistration(name='acme', target='a.b:C', summary=''),"
        " not an iterable of LayerRegistration",
    ),
    "nothing": (
        LAYERS + "    pass\n",
        "its hook channels_register_layers returned None, not an iterable of LayerRegistration",
    ),
    "async hook": (
        "@hookimpl\nasync def channels_register_layers():\n    return []\n",
        "its hook channels_register_layers is async, and hooks are plain functions",
    ),
    "bad name": (
        LAYERS + "    yield LayerRegistration(name='My Layer', target='a.b:C')\n",
        "its hook channels_register_layers failed after yielding 0: PluginError: LayerRegistration(name='My Layer'):"
        " a name is lower-case words joined by hyphens, such as 'redis' or 'allowed-hosts'",
    ),
    "wrong argument": (
        "@hookimpl\ndef channels_register_layers(config):\n    return []\n",
        "its hooks do not fit: PluginValidationError: Plugin 'acme: main' for hook 'channels_register_layers'"
        " hookimpl definition: channels_register_layers(config) Argument(s) {'config'} are declared in the hookimpl"
        " but can not be found in the hookspec",
    ),
    "misspelt hook": (
        "@hookimpl\ndef channels_register_layer():\n    return []\n",
        "it implements channels_register_layer, and there is no such hook (did you mean channels_register_layers?)",
    ),
    "strange hook": (
        "@hookimpl\ndef on_startup():\n    return []\n",
        "it implements on_startup, and there is no such hook",
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef channels_register_layers():\n    return (yield)\n",
        "its hook channels_register_layers is a wrapper, and hooks only register",
    ),
    "no hook": (
        "def channels_register_layers():\n" + GOOD,
        "it implements no hook (are its channels_register_... functions marked with @hookimpl?)",
    ),
    "api version as text": (
        "CHANNELS_API = '1'\n" + LAYERS + GOOD,
        "its CHANNELS_API is '1', not a whole number",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_set_aside_with_its_reason_and_harms_nobody(site, case) -> None:
    body, reason = BROKEN[case]
    site.layer("aaa", "before")
    site.plugin("acme", body)
    site.layer("zzz", "after")
    manager = site.manager()
    assert [entry.name for entry in manager.registered("layer")] == ["before", "after"]
    (line,) = [line for line in manager.statuses() if line.status != "ok"]
    assert (line.name, line.kind, line.distribution, line.version) == ("main", "plugin", "acme", "1.0")
    assert (line.status, line.reason) == ("broken", reason)


def test_who_asks_for_what_a_broken_plugin_registered_is_told(site) -> None:
    site.layer("aaa", "memory")
    site.plugin("pigeons", LAYERS + GOOD + "    raise RuntimeError('half way')\n", version="2.1")
    with pytest.raises(BrokenPluginError) as caught:
        site.manager().load("layer", "acme")
    assert str(caught.value) == (
        "Layer 'acme' cannot be used: pigeons 2.1 (entry point 'main') is broken: its hook channels_register_layers"
        " failed after yielding 1: RuntimeError: half way. Installed: memory. Repair or uninstall pigeons, or block it"
        " (Config.blocked_plugins or CHANNELS_BLOCK_PLUGINS)."
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("distribution", "entry"), [("channels-layer-redis", "main"), ("acme", "redis"), ("redis", "main")]
)
def test_who_asks_for_what_a_broken_plugin_is_named_after_is_told(site, distribution, entry) -> None:
    site.plugin(distribution, "import hiredis_of_old\n", entry=entry)
    with pytest.raises(BrokenPluginError) as caught:
        site.manager().load("layer", "redis")
    assert str(caught.value) == (
        f"Layer 'redis' cannot be used: {distribution} 1.0 (entry point {entry!r}) is broken: it cannot be imported:"
        " ModuleNotFoundError: No module named 'hiredis_of_old'. Installed: none. Repair or uninstall"
        f" {distribution}, or block it (Config.blocked_plugins or CHANNELS_BLOCK_PLUGINS)."
    )


def test_who_asks_for_an_unknown_name_hears_of_every_plugin_that_cannot_be_used(site) -> None:
    site.layer("aaa", "memory")
    site.plugin("pigeons", "import hiredis_of_old\n")
    site.plugin("ravens", "CHANNELS_API = 2\n")
    with pytest.raises(UnknownPluginError) as caught:
        site.manager().load("layer", "owl")
    assert str(caught.value) == (
        "No plugin registers a layer named 'owl'. Installed: memory. Perhaps it belongs to a plugin that cannot be"
        " used: pigeons 1.0 (entry point 'main') is broken: it cannot be imported: ModuleNotFoundError: No module named"
        " 'hiredis_of_old'; ravens 1.0 (entry point 'main') is incompatible: it was written for plugin API 2, and the"
        " installed channels-core has 1."
    )


def test_a_working_plugin_wins_over_a_broken_one_that_claims_its_name(site) -> None:
    site.plugin("aaa", LAYERS + GOOD + "    raise RuntimeError('half way')\n")
    site.layer("acme", "acme")
    assert site.manager().find("layer", "acme").plugin.distribution == "acme"


@pytest.mark.parametrize("version", [0, 2, 99])
def test_a_plugin_for_another_api_version_is_refused(site, version) -> None:
    site.plugin("acme", f"CHANNELS_API = {version}\n" + LAYERS + GOOD)
    manager = site.manager()
    (line,) = manager.statuses()
    assert line.status == "incompatible"
    assert line.reason == (f"it was written for plugin API {version}, and the installed channels-core has 1")
    with pytest.raises(IncompatiblePluginError) as caught:
        manager.load("layer", "acme")
    assert str(caught.value) == (
        f"Layer 'acme' cannot be used: acme 1.0 (entry point 'main') is incompatible: it was written for plugin API"
        f" {version}, and the installed channels-core has 1. Installed: none. Install versions of acme and"
        " channels-core that were made for one another."
    )


def test_the_present_api_version_may_be_stated(site) -> None:
    site.plugin("acme", "CHANNELS_API = 1\n" + LAYERS + GOOD)
    assert [line.status for line in site.manager().statuses()] == ["ok"]


def test_an_optional_hook_of_a_later_version_is_passed_over(site) -> None:
    later = "@hookimpl(optionalhook=True)\ndef channels_register_presence():\n    return ['x']\n"
    site.plugin("acme", later + LAYERS + GOOD)
    assert [(line.name, line.status) for line in site.manager().statuses()] == [("acme", "ok")]


@pytest.mark.parametrize(
    "name", ["acme-birds", "Acme.Birds", "acme_birds", "carrier_pigeon", "carrier-pigeon"]
)
@pytest.mark.parametrize("where", ["config", "environment"])
def test_a_plugin_is_blocked_by_distribution_or_entry_point_name_and_never_imported(
    site, name, where
) -> None:
    site.plugin("acme-birds", "raise AssertionError('imported')\n", entry="carrier_pigeon")
    site.layer("zzz", "owl")
    if where == "config":
        manager = site.manager(blocked=[name])
    else:
        manager = site.manager(environ={"CHANNELS_BLOCK_PLUGINS": f" other,{name} "})
    source = "Config.blocked_plugins" if where == "config" else "CHANNELS_BLOCK_PLUGINS"
    assert [(line.name, line.status, line.reason) for line in manager.statuses()] == [
        ("carrier_pigeon", "blocked", f"it is named in {source}"),
        ("owl", "ok", ""),
    ]
    assert "acme_birds_plugin" not in sys.modules
    assert manager.unmatched_blocks == (("other",) if where == "environment" else ())


def test_who_asks_for_a_blocked_plugin_is_told_where_it_is_blocked(site) -> None:
    site.layer("channels-layer-redis", "redis")
    site.layer("zzz", "owl")
    manager = site.manager(environ={"CHANNELS_BLOCK_PLUGINS": "channels-layer-redis"})
    with pytest.raises(UnknownPluginError) as caught:
        manager.load("layer", "redis")
    assert str(caught.value) == (
        "Layer 'redis' cannot be used: channels-layer-redis 1.0 (entry point 'main') is blocked: it is named in"
        " CHANNELS_BLOCK_PLUGINS. Installed: owl. Take its name out of that list to use it."
    )


def test_a_block_list_that_is_one_text_is_refused(site) -> None:
    with pytest.raises(PluginError) as caught:
        site.manager(blocked="redis")
    assert str(caught.value) == (
        "The blocked plugins are 'redis', which is one text: give a list of names, such as ['redis']."
    )


def test_one_module_registered_by_two_distributions_counts_once(site) -> None:
    site.layer("aaa", "owl")
    site.install("bbb", entries={"copy": "aaa_plugin"})
    assert [(line.name, line.status, line.reason) for line in site.manager().statuses()] == [
        ("owl", "ok", ""),
        ("copy", "broken", "its module is already registered as 'aaa: main'"),
    ]


def test_two_plugins_by_hand_may_not_share_a_name(site) -> None:
    manager = site.manager()
    site.module("aaa_plugin", PLUGIN_HEAD + LAYERS + GOOD)
    site.module("bbb_plugin", PLUGIN_HEAD + LAYERS + GOOD)
    first, second = importlib.import_module("aaa_plugin"), importlib.import_module("bbb_plugin")
    assert manager.register(first, name="bird").state == "ok"
    refused = manager.register(second, name="bird")
    assert (refused.state, refused.reason) == (
        "broken",
        "another plugin is already registered as 'by hand: bird'",
    )
    assert [entry.name for entry in manager.registered("layer")] == ["acme"]


def test_an_entry_point_that_is_no_import_string_is_set_aside(site) -> None:
    site.install("aaa", entries={"bad": "not an import string!"})
    site.layer("zzz", "owl")
    manager = site.manager()
    assert [(line.name, line.status) for line in manager.statuses()] == [("bad", "broken"), ("owl", "ok")]
    assert manager.statuses()[0].reason.startswith("it cannot be imported: ")


def test_unreadable_entry_points_are_set_aside(site) -> None:
    site.install("aaa", entries={"fine": "aaa_plugin"})
    entry_points = site.folder / "aaa-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text("[channels_core]\nno equals sign here\n")
    site.layer("zzz", "owl")
    statuses = site.manager().statuses()
    assert [(line.distribution, line.status) for line in statuses if line.name != "owl"] in (
        [("aaa", "broken")],
        [],
    )
    assert statuses[-1].status == "ok"


def test_damaged_metadata_of_one_distribution_hides_no_other(site) -> None:
    damaged = site.folder / "damaged-0.9.dist-info"
    damaged.mkdir()
    (damaged / "entry_points.txt").write_text("[channels_core]\nmain = damaged_plugin\n")
    site.module("damaged_plugin", "from channels_core import hookimpl\n" + LAYERS + "    return []\n")
    site.layer("zzz", "owl")
    manager = site.manager()
    assert [(plugin.distribution, plugin.version, plugin.state) for plugin in manager.plugins] == [
        ("damaged", "0.9", "ok"),
        ("zzz", "1.0", "ok"),
    ]


def test_a_broken_plugin_registered_by_hand_is_named_by_its_name(site) -> None:
    manager = site.manager()
    plugin = manager.register(types.ModuleType("empty"), name="empty")
    assert plugin.state == "broken"
    with pytest.raises(BrokenPluginError) as caught:
        manager.load("layer", "empty")
    assert str(caught.value) == (
        "Layer 'empty' cannot be used: plugin 'empty' (registered by hand) is broken: it implements no hook (are its"
        " channels_register_... functions marked with @hookimpl?). Installed: none. Repair or uninstall plugin"
        " 'empty', or block it (Config.blocked_plugins or CHANNELS_BLOCK_PLUGINS)."
    )
