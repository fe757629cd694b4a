"""The plugin host: discovers plugins, keeps broken ones from harming others, and looks registrations up.

pluggy validates and holds the plugins. Finding them is ours (:mod:`channels_core.discovery`), because pluggy's own
loader silently drops the second distribution that claims an entry-point name; so is collecting what the hooks yield
(:mod:`channels_core.admission`), because one plugin that fails must not take the others with it. Nothing here is on a
message's way.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import pluggy

from channels_core import hookspecs
from channels_core.admission import Plugin, admit
from channels_core.discovery import Candidate, find_candidates, normal_name
from channels_core.exceptions import (
    BrokenPluginError,
    ConflictingPluginsError,
    IncompatiblePluginError,
    PluginError,
    UnknownPluginError,
)
from channels_core.import_strings import import_target
from channels_core.registrations import PluginKind, Registration

if TYPE_CHECKING:
    from channels_core.layers import LayerBackend
    from channels_core.middleware import ConsumerMiddleware
    from channels_core.origins import OriginValidator
    from channels_core.routing import Router
    from channels_core.sessions import SessionStore

__all__ = [
    "BLOCK_VARIABLE",
    "Plugin",
    "PluginManager",
    "PluginState",
    "PluginStatus",
    "RegisteredPlugin",
    "get_plugin_manager",
]

BLOCK_VARIABLE: Final = "CHANNELS_BLOCK_PLUGINS"
"""Environment variable with plugins to leave out, as ``Config.blocked_plugins``, separated by commas or blanks."""

PluginState = Literal["ok", "blocked", "broken", "conflict", "incompatible"]

_KNOWN: Final[Mapping[tuple[PluginKind, str], str]] = {
    ("layer", "database"): "channels-layer-database",
    ("layer", "memory"): "channels-layer-memory",
    ("layer", "redis"): "channels-layer-redis",
    ("router", "regex"): "channels-router-regex",
    ("session store", "django"): "channels-session-django",
    ("origin validator", "allowed-hosts"): "channels-origin-allowed-hosts",
}
"""Which distribution to install for a name that is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredPlugin:
    """One registration and the plugin that made it."""

    registration: Registration
    plugin: Plugin

    @property
    def kind(self) -> PluginKind:
        return self.registration.kind

    @property
    def name(self) -> str:
        return self.registration.name


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginStatus:
    """A line of ``channels plugins``: a registration, or a plugin that could not register anything."""

    name: str
    kind: PluginKind | Literal["plugin"]
    distribution: str | None
    version: str | None
    status: PluginState
    reason: str


class PluginManager:
    """Knows every plugin, in a stable order: by distribution name, then entry-point name.

    ``blocked`` holds entry-point or distribution names to leave out; `_`, `.`, `-` and case make no difference.
    ``search_path`` is where distributions are looked for, ``sys.path`` by default; with an empty one only plugins
    registered by hand are known. ``environ`` is where ``CHANNELS_BLOCK_PLUGINS`` is read from.

    Discovery happens at the first question asked, once, and imports the plugin modules but none of their targets. A
    plugin counts whole or not at all: one that fails anywhere is set aside with its reason. Managers share nothing,
    and may be used from any thread.
    """

    def __init__(
        self,
        *,
        blocked: Iterable[str] = (),
        search_path: Sequence[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(blocked, str):
            raise PluginError(
                f"The blocked plugins are {blocked!r}, which is one text: give a list of names, such as [{blocked!r}]."
            )
        environment = os.environ if environ is None else environ
        self._blocked = {normal_name(name): (name, "Config.blocked_plugins") for name in blocked}
        for name in re.split(r"[\s,]+", environment.get(BLOCK_VARIABLE, "")):
            if name:
                self._blocked.setdefault(normal_name(name), (name, BLOCK_VARIABLE))
        self._search_path = None if search_path is None else list(search_path)
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT_NAME)
        self._pluggy.add_hookspecs(hookspecs)
        self._plugins: list[Plugin] = []
        self._registered: list[RegisteredPlugin] = []
        self._is_discovered = False
        self._lock = threading.RLock()

    def register(self, plugin: object, *, name: str) -> Plugin:
        """Add a plugin that no entry point names: a module, or any object with hook implementations.

        It comes after the discovered ones. Returns what became of it; a broken plugin does not raise.
        """
        with self._lock:
            self._discover()
            return self._admit(Candidate(name=name, distribution=None, version=None, load=lambda: plugin))

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All plugins found, usable or not, in order."""
        with self._lock:
            self._discover()
            return tuple(self._plugins)

    def registered(self, kind: PluginKind | None = None) -> tuple[RegisteredPlugin, ...]:
        """What usable plugins registered, conflicting names included, in order; of one kind, or of all."""
        with self._lock:
            self._discover()
            return tuple(entry for entry in self._registered if kind is None or entry.kind == kind)

    @property
    def unmatched_blocks(self) -> tuple[str, ...]:
        """Names in the block lists that match no plugin, as they were written."""
        with self._lock:
            self._discover()
            present = {name for plugin in self._plugins for name in _names(plugin)}
            return tuple(name for normal, (name, _) in self._blocked.items() if normal not in present)

    def find(self, kind: PluginKind, name: str) -> RegisteredPlugin:
        """The one registration of ``kind`` named ``name``; imports nothing.

        Raises :class:`~channels_core.exceptions.ConflictingPluginsError` where two plugins register it,
        :class:`~channels_core.exceptions.BrokenPluginError` or
        :class:`~channels_core.exceptions.IncompatiblePluginError` where the plugin that would register it failed or
        was refused, else :class:`~channels_core.exceptions.UnknownPluginError`.
        """
        entries = self.registered(kind)
        found = [entry for entry in entries if entry.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise _conflict(kind, name, found)
        self._raise_for_unusable(kind, name)
        raise self._unknown(kind, name)

    @overload
    def load(self, kind: Literal["layer"], name: str) -> type[LayerBackend]: ...
    @overload
    def load(self, kind: Literal["router"], name: str) -> Callable[[Any], Router]: ...
    @overload
    def load(self, kind: Literal["session store"], name: str) -> Callable[[], SessionStore]: ...
    @overload
    def load(self, kind: Literal["origin validator"], name: str) -> Callable[[], OriginValidator]: ...
    @overload
    def load(self, kind: Literal["consumer middleware"], name: str) -> Callable[[], ConsumerMiddleware]: ...
    def load(self, kind: PluginKind, name: str) -> Callable[..., object]:
        """Import what ``name`` stands for: a registered name, or a dotted path to a class or factory.

        Raises what :meth:`find` raises; :class:`~channels_core.exceptions.BrokenPluginError` where the target cannot
        be imported; :class:`~channels_core.exceptions.UnknownPluginError` for a path that leads nowhere; and
        :class:`~channels_core.exceptions.PluginError` for something that is no name, or a target of another kind.
        """
        if not isinstance(name, str) or not name:
            raise PluginError(
                f"{_a(kind).capitalize()} is chosen by a registered name or by a dotted path, and {name!r} is neither."
                f" {self._installed(kind)}"
            )
        if "." in name or ":" in name:
            found = import_target(
                name,
                what=f"The choice of {_a(kind)}",
                missing=UnknownPluginError,
                broken=BrokenPluginError,
                remedy=f"Correct the path, or give a registered name. {self._installed(kind)}",
            )
            return _checked(kind, found, f"{kind.capitalize()} {name!r}")
        entry = self.find(kind, name)
        label = f"{kind.capitalize()} {name!r} of {entry.plugin}"
        target = entry.registration.target
        found = import_target(
            target,
            what=label,
            missing=BrokenPluginError,
            broken=BrokenPluginError,
            remedy=_remedy(entry.plugin),
        )
        return _checked(kind, found, f"{label}, {target!r},")

    def statuses(self) -> tuple[PluginStatus, ...]:
        """What was found: one line for each registration, and for each plugin that is not usable, in order."""
        with self._lock:
            self._discover()
            owners: dict[tuple[PluginKind, str], list[Plugin]] = {}
            for entry in self._registered:
                owners.setdefault((entry.kind, entry.name), []).append(entry.plugin)
            lines = []
            for plugin in self._plugins:
                if plugin.state != "ok":
                    lines.append(_status(plugin, plugin.name, "plugin", plugin.state, plugin.reason))
                for entry in self._registered:
                    if entry.plugin is plugin:
                        same = owners[entry.kind, entry.name]
                        others = [str(other) for other in same if other is not plugin] or [str(plugin)]
                        if len(same) == 1:
                            lines.append(_status(plugin, entry.name, entry.kind, "ok", ""))
                        else:
                            reason = f"also registered by {' and '.join(others)}"
                            lines.append(_status(plugin, entry.name, entry.kind, "conflict", reason))
            return tuple(lines)

    def _discover(self) -> None:
        if not self._is_discovered:
            self._is_discovered = True
            for candidate in find_candidates(self._search_path):
                self._admit(candidate)

    def _admit(self, candidate: Candidate) -> Plugin:
        blocks = [self._blocked[name] for name in _names(candidate) if name in self._blocked]
        blocked_by = blocks[0][1] if blocks else None
        plugin, records = admit(candidate, self._pluggy, blocked_by=blocked_by)
        self._plugins.append(plugin)
        self._registered += [RegisteredPlugin(registration=record, plugin=plugin) for record in records]
        return plugin

    def _raise_for_unusable(self, kind: PluginKind, name: str) -> None:
        """Raise where a plugin that cannot be used is the one that would register ``name``."""
        errors = {
            "blocked": UnknownPluginError,
            "broken": BrokenPluginError,
            "incompatible": IncompatiblePluginError,
        }
        for plugin in self.plugins:
            if plugin.state != "ok" and _would_register(plugin, kind, name):
                raise errors[plugin.state](
                    f"{kind.capitalize()} {name!r} cannot be used: {plugin} is {plugin.state}: {plugin.reason}."
                    f" {self._installed(kind)} {_remedy(plugin)}"
                ) from plugin.error

    def _unknown(self, kind: PluginKind, name: str) -> UnknownPluginError:
        installed = [entry.name for entry in self.registered(kind)]
        known = {known: distribution for (of_kind, known), distribution in _KNOWN.items() if of_kind == kind}
        text = f"No plugin registers {_a(kind)} named {name!r}. {self._installed(kind)}"
        near = difflib.get_close_matches(name, [*installed, *known], 1)
        if near and near[0] != name:
            text += f" Did you mean {near[0]!r}?"
        if near and near[0] not in installed:
            text += f" It comes with {known[near[0]]}: run 'pip install {known[near[0]]}'."
        unusable = [
            f"{plugin} is {plugin.state}: {plugin.reason}" for plugin in self.plugins if plugin.state != "ok"
        ]
        if unusable:
            text += f" Perhaps it belongs to a plugin that cannot be used: {'; '.join(unusable)}."
        return UnknownPluginError(text)

    def _installed(self, kind: PluginKind) -> str:
        names = sorted({entry.name for entry in self.registered(kind)})
        return f"Installed: {', '.join(names) or 'none'}."


def _conflict(kind: PluginKind, name: str, found: Sequence[RegisteredPlugin]) -> ConflictingPluginsError:
    owners = " and ".join(f"{entry.plugin} with {entry.registration.target!r}" for entry in found)
    return ConflictingPluginsError(
        f"{kind.capitalize()} {name!r} is registered more than once: by {owners}. Uninstall or block all but one"
        f" (Config.blocked_plugins or {BLOCK_VARIABLE}), or give the dotted path of the one you mean."
    )


def _checked(kind: PluginKind, found: object, label: str) -> Callable[..., object]:
    """``found`` if it is what a ``kind`` has to be; ``label`` begins the error otherwise."""
    if kind == "layer":
        from channels_core.layers import LayerBackend

        if not (isinstance(found, type) and issubclass(found, LayerBackend)):
            raise PluginError(
                f"{label} is {_typed(found)}: a layer is a subclass of channels_core.layers.LayerBackend."
            )
        return found
    if not callable(found):
        takes = "the value of ROUTING" if kind == "router" else "no argument"
        raise PluginError(f"{label} is {_typed(found)}: {_a(kind)} is a class or factory that takes {takes}.")
    return found


def _status(
    plugin: Plugin, name: str, kind: PluginKind | Literal["plugin"], status: PluginState, reason: str
) -> PluginStatus:
    return PluginStatus(
        name=name,
        kind=kind,
        distribution=plugin.distribution,
        version=plugin.version,
        status=status,
        reason=reason,
    )


def _remedy(plugin: Plugin) -> str:
    """What to do about a plugin that cannot be used."""
    name = plugin.distribution or f"plugin {plugin.name!r}"
    if plugin.state == "blocked":
        return "Take its name out of that list to use it."
    if plugin.state == "incompatible":
        return f"Install versions of {name} and channels-core that were made for one another."
    return f"Repair or uninstall {name}, or block it (Config.blocked_plugins or {BLOCK_VARIABLE})."


def _typed(found: object) -> str:
    return f"{found!r:.80} ({type(found).__name__})"


def _a(kind: PluginKind) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _names(plugin: Candidate | Plugin) -> tuple[str, ...]:
    """What a block list may call the plugin, normalised."""
    return tuple(normal_name(name) for name in (plugin.distribution, plugin.name) if name is not None)


def _would_register(plugin: Plugin, kind: PluginKind, name: str) -> bool:
    """Whether an unusable plugin registered the name before it failed, or by its own name is the one to do so."""
    if plugin.offered:
        return (kind, name) in plugin.offered
    known = _KNOWN.get((kind, name), name)
    return name in _names(plugin) or known in _names(plugin)


def get_plugin_manager(blocked: Iterable[str] = ()) -> PluginManager:
    """The process's manager for this block list: made at the first call, the same at every later one."""
    names: str | tuple[str, ...] = blocked if isinstance(blocked, str) else tuple(blocked)
    return _manager(names, os.environ.get(BLOCK_VARIABLE, ""))


@functools.cache
def _manager(blocked: str | tuple[str, ...], block_variable: str) -> PluginManager:
    return PluginManager(blocked=blocked, environ={BLOCK_VARIABLE: block_variable})
