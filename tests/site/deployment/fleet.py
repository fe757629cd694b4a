"""A deployed site: interface servers, workers and clients, each a process of its own, on one engine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from deployment.engines import Engine
from deployment.scales import Scale
from ports import free_port
from testsite.projects import Running

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "tests" / "site"
SCRIPTS = Path(sys.executable).parent
PATIENCE = 40.0

APPLICATION = "deployment.asgi:application"
SERVERS: dict[str, Callable[[str], list[str]]] = {
    "uvicorn": lambda port: [
        "uvicorn", APPLICATION, "--port", port, "--ws", "websockets-sansio", "--log-level", "warning",
        "--no-access-log", "--ws-ping-timeout", "120",  # as docs/how-to/deploy.md says
    ],
    "hypercorn": lambda port: ["hypercorn", APPLICATION, "--bind", f"127.0.0.1:{port}", "--log-level", "warning"],
    "daphne": lambda port: ["daphne", APPLICATION, "--port", port, "--verbosity", "0"],
    "granian": lambda port: [
        "granian", APPLICATION, "--interface", "asgi", "--port", port, "--log-level", "warning",
    ],
}  # fmt: skip


class Interface(Running):
    """An interface server."""

    def __init__(self, server: str, folder: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        script, *arguments = SERVERS[server](str(self.port))
        super().__init__([str(SCRIPTS / script), *arguments], folder, environment)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def family(self) -> list[int]:
        """Its process and that one's children: some servers hold the sockets in one of those."""
        return family(self.pid)

    @property
    def resident(self) -> int:
        """The bytes of memory that it has resident."""
        return sum(resident(pid) for pid in self.family)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self.pid, number)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


class Companion:
    """A process that reads a JSON command a line and answers each with one JSON line."""

    module: str

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.end() == "ready"

    def begin(self, do: str, **options: Any) -> None:
        """Ask for something; :meth:`end` gives the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self.module} ended with status {self._process.wait(10)}."
        return json.loads(line)

    def ask(self, do: str, **options: Any) -> Any:
        self.begin(do, **options)
        return self.end()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class Crowd(Companion):
    """The process of :mod:`deployment.crowd`."""

    module = "deployment.crowd"

    def connect(self, interfaces: Sequence[Interface], count: int, **options: Any) -> None:
        """Open so many sockets, shared out among the interface servers; all of them must open."""
        answer = self.ask("connect", urls=[interface.url for interface in interfaces], count=count, **options)
        assert answer == {"connected": count, "refused": {}}, answer

    def talk(self, scale: Scale, engine: Engine, *, slow: float = 0.0) -> None:
        """Have every client talk, and some of them to the room; ``slow`` frames a second take their worker long."""
        interval = scale.interval * engine.pace
        self.ask(
            "talk",
            interval=interval,
            room_every=scale.room_every,
            speakers=scale.speakers,
            slow_every=int(scale.clients / interval / slow) if slow else 0,
        )


class Probe(Companion):
    """The process of :mod:`deployment.probe`: the layer, as any other process of the site sees it."""

    module = "deployment.probe"

    def members(self, group: str = "room") -> int:
        count: int = self.ask("group_count", group=group)
        return count

    def groups(self) -> dict[str, int]:
        found: dict[str, int] = self.ask("groups")
        return found

    def processes(self, kind: str) -> list[dict[str, Any]]:
        """The living processes of a kind, each with the counters that it last reported."""
        return [process for process in self.ask("processes") if process["kind"] == kind]

    def counters(self, kind: str = "interface") -> Counter[str]:
        """The counters of all processes of a kind, added up."""
        total: Counter[str] = Counter()
        for process in self.processes(kind):
            total.update(process["counters"])
        return total


class Fleet:
    """Starts processes, keeps an eye on them, and ends them all when it is left."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        config: Mapping[str, Any] | None = None,
        channels: Mapping[str, Any] | None = None,
        routes: str = "routes",
        apps: Sequence[str] = (),
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.sessions = folder / "sessions"
        self.sessions.mkdir(exist_ok=True)
        self.config = {**engine.config, **(config or {})}
        self.deployment = {
            "backend": engine.backend,
            "config": self.config,
            "channels": dict(channels or {}),
            "databases": dict(engine.databases),
            "apps": [*engine.apps, *apps],
            "routing": "deployment.shop.consumers.routes"
            if routes == "shop"
            else f"deployment.consumers.{routes}",
            "sessions": str(self.sessions),
        }
        self.interfaces: list[Interface] = []
        self.workers: list[Running] = []
        self.ended: list[Running] = []
        """Processes whose end was intended."""
        self._stack = ExitStack()

    def __enter__(self) -> "Fleet":
        if self.engine.databases:
            command = [str(SCRIPTS / "django-admin"), "migrate", "--run-syncdb", "--verbosity=0"]
            done = subprocess.run(
                command,
                check=False,
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "CHANNELS_"))
        }
        return inherited | {
            "DEPLOYMENT": json.dumps(self.deployment),
            "DJANGO_SETTINGS_MODULE": "deployment.settings",
            "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT / "tests" / "thirdparty")]),
            "PYTHONUNBUFFERED": "1",
        }

    # Processes.

    def start_interface(self, server: str = "uvicorn", *, code: Path | None = None) -> Interface:
        """Start an interface server, of the code in the folder ``code`` if it is given; it may not listen yet."""
        environment = self.environment
        if code is not None:
            sources = [str(path) for path in (*code.glob("*/src"), *code.glob("plugins/*/src"))]
            environment["PYTHONPATH"] = os.pathsep.join([*sources, environment["PYTHONPATH"]])
        interface = Interface(server, self.folder, environment)
        self._stack.enter_context(interface)
        self.interfaces.append(interface)
        return interface

    def start_worker(
        self, *, threads: int = 2, arguments: Sequence[str] = (), code: Path | None = None
    ) -> Running:
        """Start a ``runworker``; it may not read yet."""
        environment = self.environment
        if code is not None:
            sources = [str(path) for path in (*code.glob("*/src"), *code.glob("plugins/*/src"))]
            environment["PYTHONPATH"] = os.pathsep.join([*sources, environment["PYTHONPATH"]])
        worker = Running(
            [str(SCRIPTS / "django-admin"), "runworker", f"--threads={threads}", *arguments],
            self.folder,
            environment,
        )
        self._stack.enter_context(worker)
        self.workers.append(worker)
        return worker

    def start(self, *, interfaces: int, workers: int, threads: int = 2, server: str = "uvicorn") -> None:
        """Start so many of each; returns when all are ready."""
        for _ in range(interfaces):
            self.start_interface(server)
        for _ in range(workers):
            self.start_worker(threads=threads)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        for worker in self.workers:
            worker.wait_for("listens on")
        for interface in self.interfaces:
            self.wait_until(partial(is_listening, interface.port), f"{interface.http} listens")

    def crowd(self) -> Crowd:
        crowd = Crowd(self.environment)
        self._stack.callback(crowd.close)
        return crowd

    def terminate(self, worker: Running) -> None:
        """SIGTERM; it must end cleanly."""
        worker.signal(signal.SIGTERM)
        status = worker.wait()
        assert status == 0, f"A worker that was told to stop ended with status {status}:\n{worker.output}"
        self.workers.remove(worker)
        self.ended.append(worker)

    def kill_workers(self, victims: Sequence[Running] | None = None) -> None:
        """SIGKILL to all of them, or to some, at once."""
        victims = list(self.workers if victims is None else victims)
        for worker in victims:
            worker.signal(signal.SIGKILL)
        for worker in victims:
            worker.wait()
            self.workers.remove(worker)

    def kill_interface(self, interface: Interface) -> None:
        interface.signal(signal.SIGKILL)
        interface.wait()
        self.interfaces.remove(interface)

    def assert_healthy(self) -> None:
        """Nobody has ended who should not, and nobody has met an error that he did not foresee."""
        living = [*self.interfaces, *self.workers]
        for process in living:
            status = process.status
            assert status is None, f"A process ended with status {status}:\n{process.output}"
        for process in (*living, *self.ended):
            for bad in ("Traceback", "this is a bug", "Exception ignored", "has failed"):
                assert bad not in process.output, process.output

    @cached_property
    def probe(self) -> Probe:
        probe = Probe(self.environment)
        self._stack.callback(probe.close)
        return probe

    def wait_until(
        self, is_so: Callable[[], Any], what: str, seen: Callable[[], Any] = str, patience: float = PATIENCE
    ) -> float:
        """Wait until ``is_so``; returns how many seconds that took."""
        began = time.monotonic()
        while not is_so():
            if time.monotonic() - began > patience:
                raise AssertionError(f"Not within {patience:.1f} s: {what}. {seen()}\n{self.report()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def report(self) -> str:
        """What the processes printed, for whoever wants to know why."""
        parts = []
        for name, processes in (
            ("interface", self.interfaces),
            ("worker", self.workers),
            ("ended", self.ended),
        ):
            parts += [f"--- {name} {process.pid}\n{process.output[-3000:]}" for process in processes]
        return "\n".join(parts)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def resident(pid: int) -> int:
    """The bytes of memory that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
