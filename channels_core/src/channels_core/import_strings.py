"""Import strings: how settings, registrations and the command line name an object without importing it."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from channels_core.exceptions import ConfigurationError

__all__ = ["describe_error", "import_target"]


def import_target(
    path: str,
    *,
    what: str,
    missing: type[ConfigurationError] = ConfigurationError,
    broken: type[ConfigurationError] = ConfigurationError,
    remedy: str = "",
) -> Any:
    """The object that ``package.module:attribute`` or ``package.module.attribute`` names.

    After a colon the attribute may itself be dotted. Imports the module if that has not happened yet. ``what`` begins
    every error text, as in "The setting X"; ``remedy`` ends it.

    Raises ``missing`` for a path of another shape, or where there is no such module or attribute; and ``broken``,
    chained from what was raised, where the module exists and importing it failed.
    """
    module_name, attributes = _split(path)
    if not attributes:
        raise missing(f"{what} is {path!r}, which is no import string: write 'package.module:attribute'.")
    end = f" {remedy}" if remedy else ""
    try:
        owner: Any = None
        found: Any = importlib.import_module(module_name)
        trail = module_name
        for attribute in attributes:
            owner, found = found, getattr(found, attribute, _MISSING)
            if found is _MISSING:
                break
            trail = f"{trail}.{attribute}"
        else:
            return found
    except (Exception, SystemExit) as exc:
        if isinstance(exc, ModuleNotFoundError) and f"{module_name}.".startswith(f"{exc.name}."):
            raise missing(f"{what} names {path!r}, but there is no module {exc.name!r}.{end}") from exc
        raise broken(f"{what} names {path!r}, and importing it failed: {describe_error(exc)}.{end}") from exc
    raise missing(
        f"{what} names {path!r}, but {trail!r} has no attribute {attribute!r}{_nearest(attribute, owner)}.{end}"
    )


def describe_error(exc: BaseException) -> str:
    """One line about an exception, without a full stop at its end."""
    try:
        text = str(exc)
    except Exception as worse:  # noqa: BLE001 - an exception of a plugin's own, which may do anything
        text = f"(its text cannot be made: {type(worse).__name__})"
    return f"{type(exc).__name__}: {' '.join(text.split())}".rstrip(" .:")


_MISSING = object()


def _split(path: str) -> tuple[str, list[str]]:
    """Module name and attribute names; no attribute names where ``path`` is no import string."""
    if not isinstance(path, str):
        return "", []
    module_name, colon, attribute = path.partition(":")
    if not colon:
        module_name, _, attribute = path.rpartition(".")
    names = attribute.split(".")
    is_well_formed = all(part.isidentifier() for part in [*module_name.split("."), *names])
    return module_name, names if is_well_formed else []


def _nearest(attribute: str, owner: object) -> str:
    names = [name for name in dir(owner) if not name.startswith("_")]
    near = difflib.get_close_matches(attribute, names, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
