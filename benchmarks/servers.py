"""Contestants, and the processes that serve and load them.

Server and load generator are processes of their own.  CPU time and memory are read from ``/proc``, so the bench runs on
Linux only.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from benchmarks.engines import ENGINES, Engine
from benchmarks.environments import BENCHMARKS, BenchError, channels4_python
from benchmarks.load import LoadError, WebSocketLoad
from benchmarks.measurements import LayerLoad, ServerInfo

__all__ = [
    "Contestant",
    "IdleSockets",
    "Server",
    "engine_script",
    "idle_sockets",
    "layer_script",
    "load",
    "serve",
]

START_SECONDS = 30.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
ROOT = BENCHMARKS.parent

LoadRecord = TypeVar("LoadRecord")


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One application in one variant: `folder` below contestants/, `app` as module:attribute inside of it.

    `engine` is what its layer keeps messages in, one of :data:`benchmarks.engines.ENGINES`; `workers` says how many
    worker processes run beside the server, none meaning that the application runs inside of it.
    """

    name: str
    title: str
    folder: str
    app: str
    variant: str = ""
    engine: str = ""
    workers: int = 0

    @property
    def path(self) -> Path:
        return BENCHMARKS / "contestants" / self.folder

    @property
    def python(self) -> str:
        if self.folder == "channels4":
            return str(channels4_python(with_layers=bool(self.engine)))
        return sys.executable

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "BENCH_VARIANT": self.variant,
            "BENCH_ENGINE": self.engine,
            "BENCH_WORKERS": str(self.workers),
            "PYTHONDONTWRITEBYTECODE": "",
        }


@dataclass(frozen=True, kw_only=True)
class Server:
    """A contestant's running server process."""

    pid: int
    info: ServerInfo
    engine: Engine
    _stderr: Path = field(repr=False)
    workers: tuple[int, ...] = ()

    def cpu_seconds(self) -> float:
        """User and system time of all threads of the server process since it began."""
        return _cpu_seconds(self.pid)

    def worker_cpu_seconds(self) -> float:
        """The same of all worker processes together."""
        return sum(map(_cpu_seconds, self.workers))

    def engine_cpu_seconds(self) -> float:
        """The same of the engine and its child processes; 0.0 where the engine is a file."""
        first = self.engine.pid
        return 0.0 if first is None else sum(map(_cpu_seconds, (first, *_children(first))))

    def resident_bytes(self) -> int:
        """The resident set of the process."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchError(
            f"/proc/{self.pid}/status has no VmRSS line: the server has ended.\n{self.complaints()}"
        )

    def complaints(self) -> str:
        """What the server wrote to standard error, its last lines."""
        return "\n".join(self._stderr.read_text(errors="replace").splitlines()[-20:])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def serve(contestant: Contestant) -> Iterator[Server]:
    """Start the contestant's engine, server and workers, wait until they answer, and stop them at the end."""
    with ExitStack() as stack:
        engine = stack.enter_context(ENGINES[contestant.engine]())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = {**contestant.environment, **engine.environment}
        stderr = folder / "stderr"
        errors = stack.enter_context(stderr.open("wb"))

        def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, env=environment, cwd=folder, stderr=errors, **options)
            stack.callback(_stop, process)
            return process

        _prepare(contestant, environment)
        script = BENCHMARKS / "contestants" / "serve.py"
        command = [contestant.python, str(script), str(contestant.path), contestant.app]
        process = start(command, stdout=subprocess.PIPE)
        line = _first_line(process, START_SECONDS)
        if not line:
            raise BenchError(
                f"The server of contestant {contestant.name!r} did not come up within {START_SECONDS:.0f} seconds "
                f"(exit status {process.poll()}).\n{' '.join(command)}\n{stderr.read_text(errors='replace')}"
            )
        info = msgspec.json.decode(line, type=ServerInfo)
        environment["PYTHONPATH"] = str(contestant.path)
        workers = [
            start([contestant.python, "-m", "django", "runworker", "--settings", "bench_settings"])
            for _ in range(contestant.workers)
        ]
        server = Server(
            pid=process.pid,
            info=info,
            _stderr=stderr,
            workers=tuple(worker.pid for worker in workers),
            engine=engine,
        )
        if workers:
            _await_workers(server)
        yield server


def _prepare(contestant: Contestant, environment: Mapping[str, str]) -> None:
    """Make the tables of a layer that keeps messages in a database."""
    if contestant.engine not in {"postgresql", "mariadb", "sqlite"}:
        return
    command = [contestant.python, "-m", "django", "migrate", "--settings", "bench_settings", "-v", "0"]
    environment = {**environment, "PYTHONPATH": str(contestant.path)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr.decode().strip()}")


def _await_workers(server: Server) -> None:
    """Until a handshake is answered by a worker; before, the interface refuses it."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            probe = WebSocketLoad(server.info.port, "/echo")
            probe.open(1, 1)
        except LoadError:
            if time.monotonic() > deadline:
                raise BenchError(
                    f"No worker answered within {START_SECONDS:.0f} seconds.\n{server.complaints()}"
                ) from None
            time.sleep(0.1)
        else:
            probe.close()
            return


def _first_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The first line the process writes, or nothing if it ends or stays silent."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready else b""


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _load_command(mode: str, server: Server, connections: int, seconds: float, repeats: int) -> list[str]:
    options = {"port": server.info.port, "connections": connections, "seconds": seconds, "repeats": repeats}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "benchmarks.load", mode, *words]


def load(
    kind: type[LoadRecord],
    mode: str,
    server: Server,
    *,
    connections: int,
    seconds: float = 3.0,
    repeats: int = 1,
) -> LoadRecord:
    """Run the load generator against a server and return what it saw."""
    command = _load_command(mode, server, connections, seconds, repeats)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, timeout=600, check=False
    )
    if done.returncode:
        raise BenchError(f"{done.stderr.decode().strip()}\nThe server says:\n{server.complaints()}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=kind)


class IdleSockets:
    """A load process that keeps sockets open in silence; it has warmed the server up and holds none yet."""

    def __init__(self, process: subprocess.Popen[bytes], server: Server) -> None:
        self._process = process
        self._server = server
        self._await_step("warm the server up")

    def open(self) -> None:
        """Open all of the sockets; returns when every one of them is accepted."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        self._await_step("open its sockets")

    def _await_step(self, step: str) -> None:
        if not _first_line(self._process, 120):
            raise BenchError(f"The load did not {step}. The server says:\n{self._server.complaints()}")
        time.sleep(1.0)


@contextmanager
def idle_sockets(server: Server, connections: int) -> Iterator[IdleSockets]:
    """A process that can open that many sockets and hold them until the block ends."""
    command = _load_command("idle", server, connections, 0, 0)
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield IdleSockets(process, server)
    finally:
        _stop(process)


def layer_script(contestant: Contestant, pairs: int) -> LayerLoad:
    """Run a contestant's layer script: it sends and receives that many messages in one process."""
    command = [contestant.python, str(contestant.path / contestant.app), str(pairs)]
    done = subprocess.run(command, env=contestant.environment, capture_output=True, timeout=300, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr.decode().strip()}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=LayerLoad)


def engine_script(
    contestant: Contestant, seconds: float, kind: type[LoadRecord], *, patience: float
) -> LoadRecord:
    """Run a contestant's script on its engine and return what it saw; BenchError if that takes longer than ``patience``
    seconds."""
    with ENGINES[contestant.engine]() as engine, tempfile.TemporaryDirectory() as folder:
        environment = {**contestant.environment, **engine.environment}
        _prepare(contestant, environment)
        command = [contestant.python, str(contestant.path / contestant.app), "measure", str(seconds)]
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(
                f"No figures within {patience:.0f} seconds: a message was lost, or worse."
            ) from error
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr.decode().strip()}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=kind)
