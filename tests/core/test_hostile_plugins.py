"""Plugins whose objects fight back while they are looked at: set aside with a reason, and harmless to the others."""

from pathlib import Path

import pytest

from channels_core.discovery import find_candidates
from channels_core.import_strings import describe_error

HOSTILE = {
    "an iterable that cannot begin": (
        "class Records:\n"
        "    def __iter__(self): raise RuntimeError('not today')\n"
        "@hookimpl\n"
        "def channels_register_layers(): return Records()\n",
        "its hook channels_register_layers failed after yielding 0: RuntimeError: not today",
    ),
    "a result that cannot be shown": (
        "class Result:\n"
        "    def __repr__(self): raise RuntimeError('do not look')\n"
        "@hookimpl\n"
        "def channels_register_layers(): return Result()\n",
        "its hook channels_register_layers returned a Result that cannot be shown, not an iterable of"
        " LayerRegistration",
    ),
    "a record that cannot be shown": (
        "class Offer:\n"
        "    def __repr__(self): raise SystemExit\n"
        "@hookimpl\n"
        "def channels_register_layers(): yield Offer()\n",
        "its hook channels_register_layers yielded an Offer that cannot be shown, not a LayerRegistration",
    ),
    "an error without a text": (
        "class Mute(Exception):\n"
        "    def __str__(self): raise ValueError('no words')\n"
        "@hookimpl\n"
        "def channels_register_layers(): raise Mute\n",
        "its hook channels_register_layers failed: Mute: (its text cannot be made: ValueError)",
    ),
    "a module that raises for its API version": (
        "def __getattr__(name):\n    raise RuntimeError(f'{name}? never')\n",
        "it cannot be imported: RuntimeError: CHANNELS_API? never",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plugin_is_set_aside_with_its_reason(site, name) -> None:
    source, reason = HOSTILE[name]
    site.plugin("acme-hostile", source)
    site.layer("acme-good", "good")

    plugins = {plugin.distribution: plugin for plugin in site.manager().plugins}

    assert (plugins["acme-hostile"].state, plugins["acme-hostile"].reason) == ("broken", reason)
    assert plugins["acme-good"].state == "ok"


def test_entry_points_that_are_not_text_hide_no_other_plugin(site) -> None:
    site.layer("acme-good", "good")
    site.install("garbage", entries={})
    Path(site.folder, "garbage-1.0.dist-info", "entry_points.txt").write_bytes(
        b"[channels_core]\n\xff\xfe = x"
    )

    assert [candidate.distribution for candidate in find_candidates([str(site.folder)])] == ["acme-good"]


def test_an_error_without_a_text_can_be_described() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(Mute()) == "Mute: (its text cannot be made: RuntimeError)"
