"""``rundelay`` as processes, on real databases and a layer that processes share: several, killed, restarted."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channels_core import ChannelLayer
from channels_core.layers import AT_LEAST_ONCE
from mariadb_server import running_server
from postgres_server import PostgresServer, need_postgres, shared_server
from sqlite_layer.layer import SqliteBackend
from testsite.fixtures import set_up_django
from testsite.projects import Project, Running

set_up_django()

from django.core.management import CommandError, call_command  # noqa: E402 - Django comes first
from django.db import connections  # noqa: E402 - as above

from channels_layer_database.layer import DatabaseLayer  # noqa: E402 - as above

pytestmark = pytest.mark.timeout(120)

THIRD_PARTY = Path(__file__).resolve().parents[1] / "thirdparty"
OPTIONS: dict[str, Any] = {
    "capacity": 100_000,
    "delivery": {"asgi.delay": AT_LEAST_ONCE},
    "process_lease": 1.0,
    "lease": 2.0,
}

SETTINGS = """
SECRET_KEY = "of a test"
USE_TZ = True
INSTALLED_APPS = ["channels_django", "channels_delay", "channels_layer_database", "project.quick.Quick"]
DATABASES = {"default": %(database)r}
CHANNEL_LAYERS = {"default": {
    "BACKEND": %(backend)r,
    "ROUTING": "project.routing.routes",
    "CONFIG": %(options)r,
}}
"""

# A claim that ends soon, so that the tests need not wait half a minute.
QUICK = """
from datetime import timedelta
from django.apps import AppConfig

class Quick(AppConfig):
    name = "project"
    label = "quick"
    def ready(self):
        from channels_delay import table
        table.CLAIM_TIME = timedelta(seconds=2)
"""


class DelaySite(Project):
    """A project with delay servers, and this process's own view of its layer."""

    def __init__(
        self, folder: Path, database: dict[str, Any], backend: str = "sqlite_layer.layer.SqliteBackend"
    ):
        own: dict[str, Any] = {"path": str(folder / "layer.sqlite3")} if backend != "database" else {}
        if backend == "database" and database["ENGINE"].endswith("sqlite3"):
            own["shared"] = True  # in the very file
        options = {**own, **OPTIONS}
        super().__init__(
            folder,
            settings=SETTINGS % {"database": database, "backend": backend, "options": options},
            quick=QUICK,
        )
        done = self.run("migrate")
        assert done.returncode == 0, done.stderr
        if backend == "database":
            connections.settings["delay"] = {**connections.settings["default"], **database}
            self.layer = ChannelLayer(DatabaseLayer(using="delay", **options))
        else:
            self.layer = ChannelLayer(SqliteBackend(**options))

    def environment(self) -> dict[str, str]:
        given = super().environment()
        return given | {"PYTHONPATH": f"{given['PYTHONPATH']}:{THIRD_PARTY}"}

    def serve(self, *options: str) -> Running:
        server = self.start("rundelay", "--sleep=0.2", *options)
        server.wait_for("Delay server of layer 'default' is running.")
        return server

    def order(self, number: int, delay: float) -> None:
        content = {"number": number, "bytes": b"\xff"}
        self.layer.send("asgi.delay", {"channel": "later", "content": content, "delay": delay})

    def arrivals(self, count: int, *, patience: float = 30.0, quiet: float = 1.0) -> Counter[int]:
        """What has come when ``count`` different messages have, and nothing more came for a while."""
        seen: Counter[int] = Counter()
        deadline = time.monotonic() + patience
        while len(seen) < count and time.monotonic() < deadline:
            seen.update(self._take(0.1))
        while found := self._take(quiet):
            seen.update(found)
        return seen

    def _take(self, timeout: float) -> list[int]:
        deliveries = self.layer.backend.receive_batch(["later"], limit=100, timeout=timeout)
        return [delivery.content["number"] for delivery in deliveries]


def make_database(kind: str, folder: Path) -> dict[str, Any]:
    if kind == "sqlite":
        options = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
        name = str(folder / "site.sqlite3")
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}
    name = f"delay_{folder.name}"[:60]
    if kind == "mariadb":
        return running_server().new_database(name)
    need_postgres()
    shared_server().create(name)
    return shared_server().settings(name)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DelaySite]:
    made = DelaySite(tmp_path, make_database(request.param, tmp_path))
    yield made
    made.layer.close()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def one_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DelaySite]:
    """A site whose layer keeps its messages in the site's database."""
    made = DelaySite(tmp_path, make_database(request.param, tmp_path), "database")
    yield made
    made.layer.close()
    del connections.settings["delay"]


def test_two_servers_send_each_message_once(site: DelaySite) -> None:
    with site.serve() as one, site.serve() as two:
        for number in range(400):
            site.order(number, 500 + number % 100)
        assert site.arrivals(400) == Counter(range(400))
        for server in (one, two):
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert "Traceback" not in server.output


def test_after_kill_9_and_a_restart_none_is_lost_and_none_comes_twice(site: DelaySite) -> None:
    with site.serve() as victim:
        for number in range(100):
            site.order(number, 2_000 + number)
        wait_for_rows(site, 100)
        victim.signal(signal.SIGKILL)
        victim.wait()
    with site.serve():
        assert site.arrivals(100) == Counter(range(100))


def test_killed_at_any_moment_none_is_lost(site: DelaySite) -> None:
    total = 600
    seen = feed_and_kill(site, total)
    assert sorted(seen) == [*range(total)]
    # Each of the killed may have sent one batch that it could no longer strike out.
    assert sum(seen.values()) - total <= 3 * 100


def test_killed_at_any_moment_with_one_database_for_all_each_comes_once(one_database: DelaySite) -> None:
    assert feed_and_kill(one_database, 600) == Counter(range(600))


def feed_and_kill(site: DelaySite, total: int) -> Counter[int]:
    """Send orders that are due at once, while a server runs and others beside it are killed; what has arrived."""
    stop = threading.Event()

    def feed() -> None:
        for number in range(total):
            site.order(number, 50)
            if stop.wait(0.005):
                return

    with site.serve():
        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            for _ in range(3):
                with site.serve() as victim:
                    stop.wait(0.25)
                    victim.signal(signal.SIGKILL)
                    victim.wait()
            return site.arrivals(total, quiet=4.0)
        finally:
            stop.set()
            feeder.join()


def wait_for_rows(site: DelaySite, count: int) -> None:
    """Until all orders are in the table: then they are settled on the layer, and nothing of them is left there."""
    deadline = time.monotonic() + 20
    pause = threading.Event()
    while time.monotonic() < deadline:
        figures = site.layer.channel_statistics("asgi.delay")
        if figures["messages_pending"] == figures["messages_leased"] == 0:
            return
        pause.wait(0.02)
    raise AssertionError(f"the {count} orders were not kept in time")


def test_an_outage_of_postgresql_delays_and_loses_nothing(tmp_path: Path) -> None:
    need_postgres()
    server = PostgresServer()
    try:
        server.start()
        site = DelaySite(tmp_path, server.settings("postgres"))
        with site.serve() as running:
            for number in range(20):
                site.order(number, 1_500)
            wait_for_rows(site, 20)
            server.stop()
            for number in range(20, 40):
                site.order(number, 1)
            running.wait_for("The database of delayed messages is away")
            server.start()
            running.wait_for("The database of delayed messages is back")
            assert site.arrivals(40) == Counter(range(40))
            assert running.output.count("is away") == 1
            assert "Traceback" not in running.output
        site.layer.close()
    finally:
        server.remove()


def test_a_second_signal_ends_it_at_once(site: DelaySite) -> None:
    with site.serve() as running:
        running.interrupt_group()
        assert running.wait() == 0


def test_a_layer_in_memory_is_refused() -> None:
    with pytest.raises(CommandError) as caught:
        call_command("rundelay")
    assert str(caught.value) == (
        "The channel layer 'default' (MemoryBackend) keeps messages inside one process, so a separate delay server"
        " would see none. Name a layer that reaches across processes as its BACKEND in CHANNEL_LAYERS."
    )


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(CommandError) as caught:
        call_command("rundelay", layer="defualt")
    assert str(caught.value) == (
        "No channel layer has the alias 'defualt'. Configured: default. Add it to CHANNEL_LAYERS."
    )


@pytest.mark.parametrize("sleep", ["0", "-1", "soon", "inf"])
def test_sleep_is_a_number_of_seconds(sleep: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("rundelay", f"--sleep={sleep}")
    assert str(caught.value) == f"Error: argument --sleep: {sleep!r} is not a number of seconds above 0"


def test_a_missing_table_is_said(tmp_path: Path) -> None:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "empty.sqlite3")}
    path = str(tmp_path / "layer.sqlite3")
    project = Project(
        tmp_path,
        settings=SETTINGS
        % {
            "database": database,
            "backend": "sqlite_layer.layer.SqliteBackend",
            "options": {"path": path, **OPTIONS},
        },
        quick=QUICK,
    )
    environment = project.environment()["PYTHONPATH"]
    with project.start(
        "rundelay", "--no-color", environment={"PYTHONPATH": f"{environment}:{THIRD_PARTY}"}
    ) as running:
        assert running.wait() == 1
        assert running.output.endswith(
            "CommandError: The database 'default' has no table 'channels_delay_delayedmessage'. Run `manage.py migrate"
            " channels_delay`.\n"
        )
