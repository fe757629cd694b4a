"""A deployed site: interface servers, workers and clients, each a process of its own, on one engine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from channels_core.channel_layer import ChannelLayer, ChannelLayers
from channels_core.config import Config, LayerConfig
from channels_core.layers import ProcessInfo
from deployment.engines import Engine
from deployment.scales import Scale
from testsite.projects import Running, free_port

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "tests" / "site"
SCRIPTS = Path(sys.executable).parent
PATIENCE = 60.0

APPLICATION = "deployment.asgi:application"
SERVERS: dict[str, Callable[[str], list[str]]] = {
    "uvicorn": lambda port: [
        "uvicorn", APPLICATION, "--port", port, "--ws", "websockets-sansio", "--log-level", "warning",
        "--no-access-log",
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
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


class Crowd:
    """The process of :mod:`deployment.crowd`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deployment.crowd"],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"The clients' process ended with status {self._process.wait(10)}."
        return json.loads(line)

    def begin(self, do: str, **options: Any) -> None:
        """Ask for something; :meth:`end` gives the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        return self._answer()

    def ask(self, do: str, **options: Any) -> Any:
        self.begin(do, **options)
        return self.end()

    def connect(self, interfaces: Sequence[Interface], count: int, **options: Any) -> None:
        """Open so many sockets, shared out among the interface servers; all of them must open."""
        answer = self.ask("connect", urls=[interface.url for interface in interfaces], count=count, **options)
        assert answer == {"connected": count, "refused": {}}, answer

    def talk(self, scale: Scale, engine: Engine, *, slow_every: int = 0) -> None:
        """Have every client talk, and some of them to the room; each ``slow_every``-th frame takes its worker long."""
        self.ask(
            "talk",
            interval=scale.interval * engine.pace,
            room_every=scale.room_every,
            speakers=scale.speakers,
            slow_every=slow_every,
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


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
            "apps": list(engine.apps),
            "routes": routes,
            "sessions": str(self.sessions),
        }
        self.interfaces: list[Interface] = []
        self.workers: list[Running] = []
        self.ended: list[Running] = []
        """Processes whose end was intended."""
        self._stack = ExitStack()
        self._layer: ChannelLayer | None = None

    def __enter__(self) -> "Fleet":
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

    def kill_workers(self) -> None:
        """SIGKILL to all of them at once."""
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        for worker in self.workers:
            worker.wait()
        self.workers.clear()

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

    # What can be seen from outside.

    @property
    def layer(self) -> ChannelLayer:
        """The same layer, in this process."""
        if self._layer is None:
            entry = LayerConfig(backend=self.engine.backend, routing=[], config=self.config)
            layer = ChannelLayers(Config(layers={"default": entry}))["default"]
            self._stack.callback(layer.close)
            self._layer = layer
        return self._layer

    def processes(self, kind: str) -> list[ProcessInfo]:
        return [process for process in self.layer.backend.processes() if process.kind == kind]

    def counters(self, kind: str = "interface") -> dict[str, int]:
        """The counters that processes of a kind last reported, added up."""
        total: dict[str, int] = {}
        for process in self.processes(kind):
            for name, value in process.counters.items():
                total[name] = total.get(name, 0) + value
        return total

    def wait_until(self, is_so: Callable[[], Any], what: str, patience: float = PATIENCE) -> float:
        """Wait until ``is_so``; returns how many seconds that took."""
        began = time.monotonic()
        while not is_so():
            if time.monotonic() - began > patience:
                raise AssertionError(f"Not within {patience:.1f} s: {what}.\n{self.report()}")
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


def resident(pid: int) -> int:
    """The bytes of memory that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
