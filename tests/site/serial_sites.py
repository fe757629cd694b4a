"""A layer on SQLite or MariaDB for tests with processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["SerialSite", "on_engine"]


class SerialSite:
    """An alias of DATABASES, and processes that use it (:mod:`database_worker`)."""

    def __init__(self, alias: str, entry: dict[str, Any], config: dict[str, Any]) -> None:
        self.alias = alias
        self.entry = entry
        self.config = config
        self._processes: list[subprocess.Popen[str]] = []

    def layer(self, **options: Any) -> Any:
        """A layer in this process."""
        from channels_layer_database.layer import DatabaseLayer

        return DatabaseLayer(using=self.alias, **{**self.config, **options})

    def start(self, role: str, **options: Any) -> subprocess.Popen[str]:
        """A process of ``database_worker``, and what it prints."""
        config = {**self.config, **options.pop("config", {})}
        given = json.dumps({"entry": self.entry, "config": config, "channel": "work", **options})
        process = subprocess.Popen(
            [sys.executable, "-m", "database_worker", role, given],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        self._processes.append(process)
        return process

    def end(self) -> None:
        """End what still runs."""
        for process in self._processes:
            process.kill()
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def on_engine(engine: str, folder: Path, **config: Any) -> Iterator[SerialSite]:
    """``"sqlite"`` (a file of the layer's own), ``"shared"`` (the project's SQLite file) or ``"mariadb"``; empty."""
    from database_sites import aliased, on_mariadb

    if engine == "mariadb":
        name = f"serial_{abs(hash(str(folder))) % 10**9}"
        with on_mariadb(name, alias="serial") as server:
            entry = {
                "ENGINE": "django.db.backends.mysql",
                "NAME": name,
                "USER": "root",
                "HOST": str(server.socket),
            }
            site = SerialSite("serial", entry, {"create_tables": True, **config})
            try:
                yield site
            finally:
                site.end()
                server.execute(f"DROP DATABASE {name}")
        return
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "project.sqlite3")}
    if engine == "shared":
        config = {"shared": True, **config}
    with aliased("serial", entry):
        site = SerialSite("serial", entry, config)
        try:
            yield site
        finally:
            site.end()
