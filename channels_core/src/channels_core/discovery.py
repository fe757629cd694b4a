"""Finds what installed distributions offer under our entry-point group, with provenance and in a stable order."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import importlib_metadata

from channels_core.hookspecs import ENTRY_POINT_GROUP

if TYPE_CHECKING:
    from importlib_metadata import IDistribution

__all__ = ["Candidate", "find_candidates", "normal_name"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A plugin that was found and not yet imported."""

    name: str
    """Its entry point's name."""
    distribution: str | None
    """``None`` for a plugin registered by hand."""
    version: str | None
    load: Callable[[], object]
    """Imports the plugin; raises whatever its module raises."""


def normal_name(name: str) -> str:
    """The form in which names of entry points and distributions are compared (that of PyPI)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_candidates(search_path: Sequence[str] | None = None) -> list[Candidate]:
    """One candidate for each entry point of the group, ordered by distribution, then entry-point name.

    ``search_path`` is ``sys.path`` by default. Of several distributions with one name the first on the path counts,
    as it does for imports; several that claim one entry-point name all count. Imports nothing. A distribution whose
    entry points cannot be read is a candidate that fails to load, if the group is mentioned there at all.
    """
    where: dict[str, Any] = {} if search_path is None else {"path": list(search_path)}
    seen: set[str] = set()
    found: list[Candidate] = []
    for distribution in importlib_metadata.distributions(**where):
        name, version = _identity(distribution)
        if normal_name(name) not in seen:
            seen.add(normal_name(name))
            found += _entries(distribution, name, version)
    return sorted(found, key=lambda candidate: (normal_name(candidate.distribution or ""), candidate.name))


def _identity(distribution: IDistribution) -> tuple[str, str]:
    """Name and version, from the folder's name where the metadata cannot be read."""
    try:
        return str(distribution.metadata["Name"]), str(distribution.version)
    except Exception:  # noqa: BLE001 - damaged metadata of one distribution must not hide the others
        folder = getattr(distribution, "_path", None)
        name, _, version = str(getattr(folder, "stem", "unknown")).partition("-")
        return name, version or "unknown"


def _entries(distribution: IDistribution, name: str, version: str) -> list[Candidate]:
    try:
        entries = list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
    except Exception as exc:  # noqa: BLE001 - damaged metadata of one distribution must not hide the others
        text = ""
        with suppress(Exception):  # not even text: then nobody can tell whether it is about us
            text = distribution.read_text("entry_points.txt") or ""
        if f"[{ENTRY_POINT_GROUP}]" not in text:
            return []
        load = functools.partial(_fail, exc)
        return [Candidate(name=name, distribution=name, version=version, load=load)]
    return [
        Candidate(name=entry.name, distribution=name, version=version, load=entry.load) for entry in entries
    ]


def _fail(exc: Exception) -> object:
    raise exc
