"""Settings to configuration: ``CHANNEL_LAYERS`` and ``CHANNELS`` become one :class:`channels_core.config.Config`.

Reads the settings module and nothing else. The interface server lives on this alone: ``django.setup()`` is never
called here and no application is imported.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from importlib import metadata
from typing import Any, Final, Literal, get_args, get_origin

from django.conf import settings

from channels_core.channel_layer import channel_layers
from channels_core.config import MAY_BE_ZERO, Config, InterfaceConfig, LayerConfig, WorkerConfig
from channels_core.exceptions import ConfigurationError, InvalidChannelLayerError
from channels_django import old_backends

__all__ = [
    "OPTIONS",
    "Option",
    "Problem",
    "configure",
    "find_problems",
    "has_layer",
    "http_mode",
    "load_config",
    "option_value",
]

HttpMode = Literal["layer", "in-process"]

_LAYER_KEYS: Final = ("BACKEND", "ROUTING", "CONFIG", "TEST_CONFIG", "ROUTER")
_CHANNELS_4: Final = {
    "channels.layers.InMemoryChannelLayer": "memory",
    "channels_redis.core.RedisChannelLayer": "redis",
    "channels_redis.pubsub.RedisPubSubChannelLayer": "redis",
    "channels_rabbitmq.core.RabbitmqChannelLayer": "database",
    "channels_postgres.core.PostgresChannelLayer": "database",
}
"""Layers of Channels 2 to 4, and the layer to use here instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One key of ``CHANNELS``."""

    key: str
    section: Literal["interface", "worker", "django"]
    field: str
    """The field of the configuration record that it fills."""
    kind: Any
    """The type, as a type hint."""
    default: Any
    may_be_zero: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something wrong with the settings: the id of its system check, what is wrong, and what to do."""

    id: str
    text: str
    hint: str

    def __str__(self) -> str:
        return f"{self.text} {self.hint}"


_RENAMED: Final = {("worker", "middleware"): "CONSUMER_MIDDLEWARE"}


def _options() -> Iterator[Option]:
    records: tuple[tuple[Literal["interface", "worker"], type[InterfaceConfig | WorkerConfig]], ...] = (
        ("interface", InterfaceConfig),
        ("worker", WorkerConfig),
    )
    for section, record in records:
        hints = typing.get_type_hints(record)
        for field in fields(record):
            yield Option(
                key=_RENAMED.get((section, field.name), field.name.upper()),
                section=section,
                field=field.name,
                kind=hints[field.name],
                default=None if field.default is MISSING else field.default,
                may_be_zero=field.name in MAY_BE_ZERO,
            )
    yield Option(key="HTTP", section="django", field="http", kind=HttpMode, default="layer")
    yield Option(key="SESSION_STORE", section="django", field="session_store", kind=str, default="django")
    yield Option(
        key="SESSION_KEY_IN_URL", section="django", field="session_key_in_url", kind=bool, default=True
    )
    yield Option(
        key="BLOCK_PLUGINS", section="django", field="blocked_plugins", kind=tuple[str, ...], default=()
    )


OPTIONS: Final[Mapping[str, Option]] = {option.key: option for option in _options()}
"""Every key that ``CHANNELS`` may have."""


def option_value(key: str) -> Any:
    """The value of one key of ``CHANNELS``, or its default; not checked, which :func:`load_config` does."""
    chosen = _mapping("CHANNELS")
    return chosen.get(key, OPTIONS[key].default)


def has_layer() -> bool:
    """Whether there is an entry for the layer that the interface server speaks to; right or wrong."""
    return option_value("LAYER") in _mapping("CHANNEL_LAYERS")


def http_mode() -> HttpMode:
    """How HTTP is served: "layer" or "in-process"."""
    mode: HttpMode = option_value("HTTP")
    return mode


def configure() -> None:
    """Have :data:`~channels_core.channel_layers` read its configuration from settings, when first asked.

    Does nothing where it already does, so that layers in use stay.
    """
    if channel_layers.source is not load_config:
        channel_layers.configure(load_config)


def load_config() -> Config:
    """The configuration that the settings describe.

    Raises :class:`~channels_core.exceptions.InvalidChannelLayerError` for a bad entry of ``CHANNEL_LAYERS`` and
    :class:`~channels_core.exceptions.ConfigurationError` for a bad key of ``CHANNELS``, each naming what to do.
    """
    problems = list(find_problems())
    if problems:
        kind = InvalidChannelLayerError if problems[0].id in _LAYER_PROBLEMS else ConfigurationError
        raise kind(" ".join(str(problem) for problem in problems))
    chosen = _mapping("CHANNELS")
    sections: dict[str, dict[str, Any]] = {"interface": {}, "worker": {}, "django": {}}
    for key, value in chosen.items():
        option = OPTIONS[key]
        sections[option.section][option.field] = tuple(value) if isinstance(value, list) else value
    interface = sections["interface"]
    protocols = getattr(settings, "CHANNELS_WS_PROTOCOLS", None)
    if protocols:
        interface.setdefault("websocket_protocols", tuple(protocols))
    others = sections["django"]
    others.pop("http", None)
    others.pop("session_key_in_url", None)
    return Config(
        layers={alias: _layer(entry) for alias, entry in _mapping("CHANNEL_LAYERS").items()},
        interface=InterfaceConfig(**interface),
        worker=WorkerConfig(**sections["worker"]),
        **others,
    )


def _layer(entry: Mapping[str, Any]) -> LayerConfig:
    entry = old_backends.translate(entry)
    return LayerConfig(
        backend=entry["BACKEND"],
        routing=entry.get("ROUTING"),
        config=entry.get("CONFIG") or {},
        test_config=entry.get("TEST_CONFIG"),
        router=entry.get("ROUTER", "regex"),
    )


def _mapping(name: str) -> Mapping[str, Any]:
    """The setting ``name``; empty where it is missing. Raises ImproperlyConfigured without a settings module."""
    value = getattr(settings, name, None)
    return value if isinstance(value, Mapping) else {}


# What can be wrong. The ids are those of the system checks; each is documented in docs/reference/settings.md.

_NOT_A_DICT: Final = "channels.E002"
_UNKNOWN_KEY: Final = "channels.E003"
_BAD_VALUE: Final = "channels.E004"
_BAD_ENTRY: Final = "channels.E005"
_CHANNELS_4_ENTRY: Final = "channels.E006"
_TWO_OWNERS: Final = "channels.E010"
_LAYER_PROBLEMS: Final = {_BAD_ENTRY, _CHANNELS_4_ENTRY}


def find_problems() -> Iterator[Problem]:
    """What is wrong with ``CHANNELS`` and ``CHANNEL_LAYERS`` by themselves; imports nothing that they name.

    Also two distributions that own the import package ``channels``: what one of them installed last has overwritten
    files of the other, so no settings could be relied on.
    """
    yield from _two_owners()
    for name in ("CHANNEL_LAYERS", "CHANNELS"):
        value = getattr(settings, name, None)
        if value is not None and not isinstance(value, Mapping):
            yield Problem(
                id=_NOT_A_DICT,
                text=f"{name} is {_shown(value)}, not a dict.",
                hint=f"Write {name} = {{...}}.",
            )
    for alias, entry in _mapping("CHANNEL_LAYERS").items():
        yield from _entry_problems(alias, entry)
    yield from _option_problems()


def _two_owners() -> Iterator[Problem]:
    versions = {}
    for name in ("channels", "channels-compat"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    if len(versions) == 2:
        found = " and ".join(f"{name} {version}" for name, version in versions.items())
        yield Problem(
            id=_TWO_OWNERS,
            text=f"The distributions {found} are both installed, and both own the import package 'channels': the later"
            " one has overwritten files of the other.",
            hint="Uninstall both, then install one: channels-compat runs applications written for Channels 1.x,"
            " channels those written for Channels 2 to 4.",
        )


def _option_problems() -> Iterator[Problem]:
    chosen = _mapping("CHANNELS")
    for key, value in chosen.items():
        option = OPTIONS.get(key)
        if option is None:
            yield Problem(
                id=_UNKNOWN_KEY,
                text=f"CHANNELS has the unknown key {key!r}.",
                hint=f"{_nearest(key, OPTIONS)}The keys are: {', '.join(sorted(OPTIONS))}.",
            )
        elif (needed := _wrong(option, value)) is not None:
            shown = f"leave it out for the default, {_plain(option.default)!r}"
            yield Problem(
                id=_BAD_VALUE,
                text=f"CHANNELS[{key!r}] is {_shown(value)}: it must be {needed}.",
                hint=f"Correct it, or {shown}.",
            )
    alias = chosen.get("LAYER", "default")
    layers = _mapping("CHANNEL_LAYERS")
    if "LAYER" in chosen and isinstance(alias, str) and alias not in layers:
        yield Problem(
            id=_BAD_VALUE,
            text=f"CHANNELS['LAYER'] is {alias!r}, which CHANNEL_LAYERS does not have.",
            hint=f"{_nearest(alias, layers)}CHANNEL_LAYERS has: {', '.join(sorted(layers)) or 'nothing'}.",
        )


def _wrong(option: Option, value: Any) -> str | None:
    """What ``value`` should have been, or ``None`` where it is right."""
    kind, kinds = option.kind, get_args(option.kind)
    if get_origin(kind) is Literal:
        return None if value in kinds else " or ".join(repr(one) for one in kinds)
    if type(None) in kinds:
        if value is None:
            return None
        kind = next(one for one in kinds if one is not type(None))
    optional = " or None" if type(None) in kinds else ""
    if get_origin(kind) is tuple:
        right = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        return None if right else f"a list of text{optional}"
    if kind is bool:
        return None if isinstance(value, bool) else "True or False"
    if kind is str:
        return None if isinstance(value, str) and value else f"text{optional}"
    allowed = int if kind is int else int | float
    bound = "of at least 0" if option.may_be_zero else "above 0"
    is_number = isinstance(value, allowed) and not isinstance(value, bool)
    # A NaN compares false with everything, and so is refused too.
    if is_number and (0 < value < float("inf") or (value == 0 and option.may_be_zero)):
        return None
    return f"{'a whole number' if kind is int else 'a number'} {bound}{optional}"


def _entry_problems(alias: str, entry: Any) -> Iterator[Problem]:
    where = f"CHANNEL_LAYERS[{alias!r}]"
    if not isinstance(entry, Mapping):
        yield Problem(
            id=_BAD_ENTRY,
            text=f"{where} is {_shown(entry)}, not a dict.",
            hint="Write {'BACKEND': 'memory', 'ROUTING': 'mysite.routing.routes'}, for example.",
        )
        return
    backend = entry.get("BACKEND")
    if isinstance(backend, str) and _is_of_channels_4(backend):
        yield _channels_4_problem(where, backend, entry)
        return
    for key in entry:
        if key not in _LAYER_KEYS:
            yield Problem(
                id=_BAD_ENTRY,
                text=f"{where} has the unknown key {key!r}.",
                hint=f"{_nearest(key, _LAYER_KEYS)}The keys are: {', '.join(_LAYER_KEYS)}; what the backend itself"
                " takes goes into CONFIG.",
            )
    if not isinstance(backend, str) or not backend:
        text = f"{where} has no BACKEND." if backend is None else f"{where}['BACKEND'] is {_shown(backend)}."
        yield Problem(
            id=_BAD_ENTRY,
            text=text,
            hint="Name an installed layer, such as 'memory', or give the dotted path to a backend class.",
        )
    if entry.get("ROUTING") is None:
        yield Problem(
            id=_BAD_ENTRY,
            text=f"{where} has no ROUTING, so no worker could serve it.",
            hint="Give it a list of routes, or the dotted path to one, such as 'mysite.routing.routes'.",
        )
    for key in ("CONFIG", "TEST_CONFIG"):
        options = entry.get(key)
        if options is not None and not (
            isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
        ):
            yield Problem(
                id=_BAD_ENTRY,
                text=f"{where}[{key!r}] is {_shown(options)}: it must be a dict of the backend's options.",
                hint="Write {'capacity': 200}, for example.",
            )
    if "ROUTER" in entry and not (isinstance(entry["ROUTER"], str) and entry["ROUTER"]):
        yield Problem(
            id=_BAD_ENTRY,
            text=f"{where}['ROUTER'] is {_shown(entry['ROUTER'])}: it must be text.",
            hint="Name an installed router, such as 'regex', or leave it out.",
        )


def _is_of_channels_4(backend: str) -> bool:
    return backend in _CHANNELS_4 or backend.startswith(
        ("channels.layers.", "channels_redis.", "channels_rabbitmq.", "channels_postgres.")
    )


def _channels_4_problem(where: str, backend: str, entry: Mapping[str, Any]) -> Problem:
    name = _CHANNELS_4.get(backend, "redis" if backend.startswith("channels_redis.") else "memory")
    routing = entry.get("ROUTING")
    shown = repr(routing) if isinstance(routing, str) else "'mysite.routing.routes'"
    return Problem(
        id=_CHANNELS_4_ENTRY,
        text=f"{where} has BACKEND {backend!r}, a layer of Channels 2 to 4, which has another contract.",
        hint=f"Write {{'BACKEND': {name!r}, 'ROUTING': {shown}}} instead; the options in CONFIG have other names too.",
    )


def _nearest(name: object, known: Any) -> str:
    near = difflib.get_close_matches(str(name), list(known), 1) or difflib.get_close_matches(
        str(name).upper(), list(known), 1
    )
    return f"Did you mean {near[0]!r}? " if near else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
