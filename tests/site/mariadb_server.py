"""A MariaDB server of the tests' own, in a directory below the temporary one, on a socket there.

Where there is none on the machine tests skip, and say so; in CI they fail.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["MariaDB", "new_server", "running_server"]

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"))
_started: list[MariaDB] = []


class MariaDB:
    """One server. ``start`` again after ``stop`` or ``kill``: the data stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "mysql.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the system tables."""
        install = shutil.which("mariadb-install-db", path=_PATH)
        assert install is not None
        subprocess.run(
            [
                install,
                f"--datadir={self.folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *_user(),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def start(self) -> None:
        """Begin to serve; returns when it answers."""
        server = shutil.which("mariadbd", path=_PATH)
        assert server is not None
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [
                server,
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                f"--socket={self.socket}",
                f"--pid-file={self.folder / 'pid'}",
                "--skip-networking",
                "--innodb-buffer-pool-size=32M",
                "--max-connections=300",
                *_user(),
            ],
            stdout=log,
            stderr=log,
        )
        log.close()
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"MariaDB did not start:\n{(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)  # a real server takes its time

    def _answers(self) -> bool:
        import MySQLdb  # type: ignore[import-untyped]  # it has no types

        with contextlib.suppress(MySQLdb.Error):
            self.execute("SELECT 1")
            return True
        return False

    @property
    def pid(self) -> int:
        """Of the server's one process."""
        assert self._process is not None
        return self._process.pid

    def execute(self, sql: str, database: str = "") -> list[tuple[object, ...]]:
        """Run one statement as root."""
        import MySQLdb

        connection = MySQLdb.connect(unix_socket=str(self.socket), user="root", database=database)
        try:
            connection.autocommit(True)
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())
        finally:
            connection.close()

    def new_database(self, name: str) -> dict[str, object]:
        """An empty database, as DATABASES describes it."""
        self.execute(f"DROP DATABASE IF EXISTS {name}")
        self.execute(f"CREATE DATABASE {name}")
        return {
            "ENGINE": "django.db.backends.mysql",
            "NAME": name,
            "USER": "root",
            "HOST": str(self.socket),
        }

    def stop(self) -> None:
        """End it as an administrator does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


def _user() -> list[str]:
    return [f"--user={getpass.getuser()}"]


def running_server() -> MariaDB:
    """The server that this process's tests share."""
    if not _started:
        context = new_server()
        _started.append(context.__enter__())
        owner = os.getpid()

        def end() -> None:
            if os.getpid() == owner:
                context.__exit__(None, None, None)

        atexit.register(end)
    return _started[0]


@contextlib.contextmanager
def new_server() -> Iterator[MariaDB]:
    """A server for one test. Skips the test where there can be none; fails it in CI."""
    missing = [
        what
        for what, found in (
            ("mariadbd", shutil.which("mariadbd", path=_PATH)),
            ("mariadb-install-db", shutil.which("mariadb-install-db", path=_PATH)),
            ("the package mysqlclient", _has_driver()),
        )
        if not found
    ]
    if missing:
        text = (
            f"MariaDB cannot be tested without {', '.join(missing)}: install mariadb-server and mysqlclient."
        )
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    folder = Path(tempfile.mkdtemp(prefix="mariadb-"))
    server = MariaDB(folder)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _has_driver() -> bool:
    try:
        import MySQLdb
    except ImportError:
        return False
    return bool(MySQLdb)
