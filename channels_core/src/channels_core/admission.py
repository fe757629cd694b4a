"""Decides about one plugin: usable, with everything it registers, or set aside with a reason and harmless."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pluggy

from channels_core.discovery import Candidate
from channels_core.import_strings import describe_error
from channels_core.registrations import (
    API_VERSION,
    ConsumerMiddlewareRegistration,
    LayerRegistration,
    OriginValidatorRegistration,
    PluginKind,
    Registration,
    RouterRegistration,
    SessionStoreRegistration,
)

__all__ = ["Plugin", "admit"]

_HOOKS: Final[Mapping[str, type[Registration]]] = {
    "channels_register_layers": LayerRegistration,
    "channels_register_routers": RouterRegistration,
    "channels_register_session_stores": SessionStoreRegistration,
    "channels_register_origin_validators": OriginValidatorRegistration,
    "channels_register_consumer_middleware": ConsumerMiddlewareRegistration,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A plugin, where it comes from, and what became of it."""

    name: str
    """Its entry point's name, or the name it was registered under by hand."""
    distribution: str | None
    """``None`` for a plugin registered by hand."""
    version: str | None
    state: Literal["ok", "blocked", "broken", "incompatible"] = "ok"
    reason: str = ""
    """Why its state is not ``ok``: a clause about "it", without a full stop."""
    error: BaseException | None = None
    """What it raised, where that is the reason."""
    offered: tuple[tuple[PluginKind, str], ...] = ()
    """Kind and name of what it registered; for a broken plugin, before it failed, and none of it counts."""

    def __str__(self) -> str:
        if self.distribution is None:
            return f"plugin {self.name!r} (registered by hand)"
        return f"{self.distribution} {self.version} (entry point {self.name!r})"


class _Unusable(Exception):
    """Why a plugin is broken, as a clause."""


def admit(
    candidate: Candidate, manager: pluggy.PluginManager, *, blocked_by: str | None
) -> tuple[Plugin, list[Registration]]:
    """The plugin behind ``candidate`` and all that it registers; nothing, unless its state is ``ok``.

    A usable plugin stays registered with ``manager``; any other leaves no trace there. ``blocked_by`` names the block
    list that holds it, and then it is not even imported. Never raises for anything a plugin does short of
    ``KeyboardInterrupt``.
    """
    records: list[Registration] = []
    judged = _Judge(candidate, records)
    if blocked_by is not None:
        return judged("blocked", f"it is named in {blocked_by}"), []
    try:
        module = candidate.load()
        version = getattr(module, "CHANNELS_API", 1)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever one plugin does, the others go on
        return judged("broken", f"it cannot be imported: {describe_error(exc)}", exc), []
    if isinstance(version, bool) or not isinstance(version, int):
        return judged("broken", f"its CHANNELS_API is {version!r}, not a whole number"), []
    if version != API_VERSION:
        reason = f"it was written for plugin API {version}, and the installed channels-core has {API_VERSION}"
        return judged("incompatible", reason), []
    identity = f"{candidate.distribution or 'by hand'}: {candidate.name}"
    try:
        _register(module, manager, identity)
        for name, hook in _implementations(module, manager):
            _read(name, hook, records)
    except _Unusable as exc:
        if manager.get_plugin(identity) is module:
            manager.unregister(name=identity)
        return judged("broken", str(exc), exc.__cause__), []
    return judged("ok"), records


class _Judge:
    """Makes the record of one candidate, once its state is known."""

    def __init__(self, candidate: Candidate, records: list[Registration]) -> None:
        self._candidate = candidate
        self._records = records

    def __call__(
        self,
        state: Literal["ok", "blocked", "broken", "incompatible"],
        reason: str = "",
        error: BaseException | None = None,
    ) -> Plugin:
        return Plugin(
            name=self._candidate.name,
            distribution=self._candidate.distribution,
            version=self._candidate.version,
            state=state,
            reason=reason,
            error=error,
            offered=tuple((record.kind, record.name) for record in self._records),
        )


def _register(module: Any, manager: pluggy.PluginManager, identity: str) -> None:
    """Have pluggy check the signatures of the plugin's hooks and keep it. Raises :class:`_Unusable`."""
    if manager.is_registered(module):
        raise _Unusable(f"its module is already registered as {manager.get_name(module)!r}")
    if manager.has_plugin(identity):
        raise _Unusable(f"another plugin is already registered as {identity!r}")
    try:
        manager.register(module, name=identity)
    except (Exception, SystemExit) as exc:
        raise _Unusable(f"its hooks do not fit: {describe_error(exc)}") from exc


def _implementations(module: Any, manager: pluggy.PluginManager) -> list[tuple[str, Callable[..., object]]]:
    """The plugin's hooks, in the order of the specifications. Raises :class:`_Unusable`."""
    found: dict[str, list[Callable[..., object]]] = {}
    for caller in manager.get_hookcallers(module) or []:
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not module:
                continue
            if implementation.wrapper or implementation.hookwrapper:
                raise _Unusable(f"its hook {caller.name} is a wrapper, and hooks only register")
            if caller.name in _HOOKS or not implementation.optionalhook:
                found.setdefault(caller.name, []).append(implementation.function)
    for name in found:
        if name not in _HOOKS:
            near = difflib.get_close_matches(name, _HOOKS, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise _Unusable(f"it implements {name}, and there is no such hook{hint}")
    if not found:
        raise _Unusable(
            "it implements no hook (are its channels_register_... functions marked with @hookimpl?)"
        )
    return [(name, hook) for name in _HOOKS for hook in found.get(name, [])]


def _read(name: str, hook: Callable[..., object], records: list[Registration]) -> None:
    """Call one hook and append what it yields. Raises :class:`_Unusable`, also half-way."""
    wanted = _HOOKS[name]
    try:
        result = hook()
    except (Exception, SystemExit) as exc:
        raise _Unusable(f"its hook {name} failed: {describe_error(exc)}") from exc
    if inspect.iscoroutine(result):
        result.close()
        raise _Unusable(f"its hook {name} is async, and hooks are plain functions")
    if isinstance(result, str) or not isinstance(result, Iterable):
        raise _Unusable(f"its hook {name} returned {_shown(result)}, not an iterable of {wanted.__name__}")
    count = len(records)
    found: Iterator[object] | None = None
    while True:
        try:
            found = iter(result) if found is None else found
            record = next(found)
        except StopIteration:
            return
        except (Exception, SystemExit) as exc:
            done = len(records) - count
            raise _Unusable(f"its hook {name} failed after yielding {done}: {describe_error(exc)}") from exc
        if not isinstance(record, wanted):
            raise _Unusable(f"its hook {name} yielded {_shown(record)}, not {_a(wanted.__name__)}")
        records.append(record)


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except (Exception, SystemExit):  # noqa: BLE001 - as everything of a plugin's own
        return f"{_a(type(value).__name__)} that cannot be shown"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"
