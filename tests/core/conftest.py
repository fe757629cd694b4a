"""Throw-away distributions, real metadata folders and modules on ``sys.path``, as an installer leaves them; and benches
for workers."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from channels_core.plugins import PluginManager
from workbench import KINDS, Bench, backends

PLUGIN_HEAD = """
from channels_core import hookimpl
from channels_core.registrations import *
"""


class Site:
    """A folder that installed things are put into, first on ``sys.path``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, name: str, source: str) -> None:
        path = self.folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        importlib.invalidate_caches()

    def install(
        self, name: str, *, version: str = "1.0", entries: Mapping[str, str], folder: str | None = None
    ) -> None:
        info = self.folder / (folder or f"{name.replace('-', '_')}-{version}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{key} = {value}" for key, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[channels_core]", *lines, ""]))
        importlib.invalidate_caches()

    def plugin(self, distribution: str, body: str, *, entry: str = "main", version: str = "1.0") -> None:
        """A distribution with one plugin module, ``body`` being what it says after its imports."""
        module = f"{distribution.replace('-', '_')}_plugin"
        self.module(module, PLUGIN_HEAD + body)
        self.install(distribution, version=version, entries={entry: module})

    def layer(self, distribution: str, name: str, *, entry: str = "main", version: str = "1.0") -> None:
        """A distribution whose plugin registers one layer, with a target that does not exist."""
        body = (
            "@hookimpl\n"
            "def channels_register_layers():\n"
            f"    yield LayerRegistration(name={name!r}, target='nowhere.{name.replace('-', '_')}:Backend')\n"
        )
        self.plugin(distribution, body, entry=entry, version=version)

    def manager(
        self, *, blocked: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> PluginManager:
        return PluginManager(search_path=[str(self.folder)], blocked=blocked, environ=environ or {})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(params=KINDS)
def make_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches on layers of one kind; a test that asks for it runs once for each kind."""
    made: list[Bench] = []
    make_backend = backends(tmp_path)[request.param]

    def make(**options: Any) -> Bench:
        made.append(Bench(make_backend, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
