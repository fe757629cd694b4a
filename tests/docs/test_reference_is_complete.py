"""Public means documented: every exported name, method, counter and layer option is on a page of the reference."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from channels_core import Channel, ChannelLayer, ChannelLayers, Group, Message
from channels_core.layers import LayerBackend
from channels_core.statistics import Counters

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = {path.name: path.read_text() for path in (DOCS / "reference").glob("*.md")}
EVERYTHING = "\n".join([*REFERENCE.values(), *(path.read_text() for path in (DOCS / "how-to").glob("*.md"))])

PUBLIC = [
    "channels_core",
    "channels_core.interface",
    "channels_core.registrations",
    "channels_core.testing.conformance",
    "channels_core.worker",
    "channels_delay",
    "channels_django",
    "channels_django.generic",
    "channels_django.signals",
    "channels_django.testing",
    "channels_layer_database",
    "channels_layer_memory",
    "channels_layer_redis",
    "channels_model_binding",
    "channels_origin_allowed_hosts",
    "channels_router_regex",
    "channels_session_django",
]


def missing(names: list[str], text: str) -> list[str]:
    """Those of ``names`` that no code in ``text`` has, neither a span nor a block."""
    code = "\n".join(re.findall(r"```.*?^```|`[^`\n]+`", text, re.MULTILINE | re.DOTALL))
    return [name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code)]


def public_members(kind: type) -> list[str]:
    """What a class offers beside dunder methods; of twins the one without ``a``."""
    names = [name for name in vars(kind) if not name.startswith("_")]
    return [name for name in names if not (name.startswith("a") and name[1:] in names)]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_exported_name_is_documented(module: str) -> None:
    assert missing(list(importlib.import_module(module).__all__), EVERYTHING) == []


@pytest.mark.parametrize("kind", [Channel, Group, Message, ChannelLayer, ChannelLayers])
def test_every_member_of_the_classes_that_users_hold_is_documented(kind: type) -> None:
    members = [name for base in (kind, *kind.__mro__[1:-1]) for name in public_members(base)]
    assert missing(members, REFERENCE["api.md"]) == []


def test_every_counter_is_documented() -> None:
    assert missing([field.name for field in dataclasses.fields(Counters)], REFERENCE["api.md"]) == []


def test_every_option_of_every_layer_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_`, ]+)` \| (.*?) \|", REFERENCE["settings.md"], re.MULTILINE))
    shown = {
        name: default
        for names, defaults in rows.items()
        for name, default in zip(names.split("`, `"), defaults.split(", "), strict=True)
    }
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(LayerBackend.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert {name: value_of(shown[name]) for name in options if name in shown} == {
        name: {} if default is None else default for name, default in options.items()
    }


def value_of(shown: str) -> object:
    """A default as the page writes it: a number, a size, an empty dict."""
    if shown == "`{}`":
        return {}
    size = re.fullmatch(r"(\d+) MiB", shown)
    return int(size[1]) * 2**20 if size else float(shown)


def test_what_is_not_there_is_missed() -> None:
    assert missing(["Channel", "NoSuchThing"], EVERYTHING) == ["NoSuchThing"]
