"""The engines that the proofs run on: how each is started, stopped, killed and stalled, and the CONFIG for it."""

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mariadb_server import MariaDB
    from postgres_server import PostgresServer

__all__ = ["DATABASE", "ENGINES", "Engine", "Postgres", "Server"]

OF_PROCESSES = {"channels_proc", "channels_closed"}
"""Tables that are about living processes: which there are, and which of their channels have ended of late."""

PATIENCE = 30.0
DATABASE = "deployed"


class Server(Protocol):
    """The process behind a layer. Each method returns when it has happened."""

    def start(self) -> None:
        """Start on what was there when it ended; returns once it answers."""

    def stop(self) -> None:
        """End it as a service manager does; what it keeps, it keeps."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def pause(self) -> None:
        """Stop it in its tracks."""

    def resume(self) -> None:
        """Let it go on."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A layer and what is behind it."""

    name: str
    backend: str
    """As in CHANNEL_LAYERS."""
    config: Mapping[str, Any]
    server: Server | None
    """None where there is no process to restart."""
    kept: Callable[[], Mapping[str, int]]
    """How much it keeps that is not about a living process, by kind."""
    databases: Mapping[str, Any] = field(default_factory=dict)
    apps: tuple[str, ...] = ()
    source: str
    """Where the layer's code is, in a checkout, if it is part of it."""
    pace: float = 1.0
    """How many times slower than Redis it is driven."""
    repeats_after_crash: bool = False
    """Whether a crash may bring back what was taken at most once just before: a take does not wait for the disk."""


@contextmanager
def redis_engine(folder: Path) -> Iterator[Engine]:
    """The Redis layer on Valkey, with an append-only file."""
    from redis_servers import RedisServer

    with RedisServer(appendonly="yes", appendfsync="everysec") as server:

        def kept() -> Counter[str]:
            found: Counter[str] = Counter()
            with server.client() as client:
                living = set()
                for key in client.scan_iter("channels:p:*", count=1000):
                    living.add(key.decode().partition("{")[2])
                for key in client.scan_iter(count=1000):
                    _, kind, about = key.decode().split(":", 2)
                    if kind in {"c", "t"}:  # a channel's streams stay; what is in them counts
                        found[kind] += client.xlen(key)
                    elif kind in {"i", "e", "h"}:  # what a living process has
                        found[f"{kind} of nobody"] += about.partition("{")[2] not in living
                    elif kind not in {
                        "p",
                        "u",
                        "l",
                        "n",
                    }:  # n: a note about each channel with leases, for a time
                        found[kind] += 1
            return +found

        yield Engine(
            name="redis",
            backend="redis",
            config={"hosts": [server.url]},
            server=server,
            kept=kept,
            source="plugins/channels-layer-redis/src",
        )


class Postgres:
    """PostgreSQL as a :class:`Server`."""

    def __init__(self, server: "PostgresServer") -> None:
        self.postgres = server

    def start(self) -> None:
        self.postgres.start()

    def stop(self) -> None:
        self.postgres.stop()

    def kill(self) -> None:
        """All its processes at once, as when a machine loses its power, but for what the kernel has written."""
        family = self._family()
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.stop(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in family):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def pause(self) -> None:
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in reversed(self._family()):
            os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        """The server's process ids, its first one first."""
        first = int((self.postgres.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]


@contextmanager
def postgres_engine(folder: Path) -> Iterator[Engine]:
    """The database layer on PostgreSQL, with its tables made by the migrations."""
    from postgres_server import PostgresServer, need_postgres

    need_postgres()
    postgres = PostgresServer()
    try:
        postgres.start()
        postgres.create(DATABASE)

        def kept() -> dict[str, int]:
            tables = postgres.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'channels_%'",
                DATABASE,
            )
            return {
                name: count
                for (name,) in tables
                if name not in OF_PROCESSES
                and (count := postgres.execute(f'SELECT count(*) FROM "{name}"', DATABASE)[0][0])
            }

        yield Engine(
            name="postgresql",
            backend="database",
            config={},
            server=Postgres(postgres),
            kept=kept,
            databases={"default": postgres.settings(DATABASE)},
            apps=("channels_layer_database",),
            source="plugins/channels-layer-database/src",
            pace=2.0,
            repeats_after_crash=True,
        )
    finally:
        postgres.remove()


class Maria:
    """MariaDB as a :class:`Server`."""

    def __init__(self, server: "MariaDB") -> None:
        self.mariadb = server

    def start(self) -> None:
        self.mariadb.start()

    def stop(self) -> None:
        self.mariadb.stop()

    def kill(self) -> None:
        self.mariadb.kill()

    def pause(self) -> None:
        os.kill(self.mariadb.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.mariadb.pid, signal.SIGCONT)


@contextmanager
def mariadb_engine(folder: Path) -> Iterator[Engine]:
    """The database layer on MariaDB, with its tables made by the migrations."""
    from mariadb_server import new_server

    with new_server() as mariadb:
        described = mariadb.new_database(DATABASE)

        def kept() -> dict[str, int]:
            tables = mariadb.execute("SHOW TABLES LIKE 'channels\\_%'", DATABASE)
            return {
                str(name): int(str(count))
                for (name,) in tables
                if name not in OF_PROCESSES
                and (count := mariadb.execute(f"SELECT count(*) FROM {name}", DATABASE)[0][0])
            }

        yield Engine(
            name="mariadb",
            backend="database",
            config={},
            server=Maria(mariadb),
            kept=kept,
            databases={"default": described},
            apps=("channels_layer_database",),
            source="plugins/channels-layer-database/src",
            pace=4.0,
        )


@contextmanager
def sqlite_engine(folder: Path, *, shared: bool = False) -> Iterator[Engine]:
    """The database layer in a file beside the project's SQLite database, or in that itself."""
    path = folder / "project.sqlite3"

    def kept() -> dict[str, int]:
        with closing(sqlite3.connect(path if shared else f"{path}.channels")) as connection:
            tables = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'channels_%'"
            )
            return {
                name: count
                for (name,) in tables.fetchall()
                if name not in OF_PROCESSES
                and (count := connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0])
            }

    yield Engine(
        name="sqlite-shared" if shared else "sqlite",
        backend="database",
        config={"shared": True} if shared else {},
        server=None,
        kept=kept,
        databases={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}},
        apps=("channels_layer_database",),
        source="plugins/channels-layer-database/src",
        pace=2.0,
    )


@contextmanager
def sqlite_sample(folder: Path) -> Iterator[Engine]:
    """The sample layer of the plugin authors' guide: small, and without a server."""
    path = folder / "layer.sqlite3"

    def kept() -> dict[str, int]:
        with closing(sqlite3.connect(path)) as connection:
            return {
                table: count
                for table in ("message", "member", "dead")
                if (count := connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            }

    yield Engine(
        name="sqlite-sample",
        backend="sqlite_layer.layer.SqliteBackend",
        config={"path": str(path)},
        server=None,
        kept=kept,
        source="tests/thirdparty/sqlite_layer",
        pace=5.0,
    )


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "redis": redis_engine,
    "postgresql": postgres_engine,
    "mariadb": mariadb_engine,
    "sqlite": sqlite_engine,
    "sqlite-shared": partial(sqlite_engine, shared=True),
    "sqlite-sample": sqlite_sample,
}
"""By name, what starts each of them, empty, for as long as the context lasts."""
