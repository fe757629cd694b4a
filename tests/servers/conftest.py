"""Starts each server as a process, with one site, and gives tests its address and what its consumers wrote down."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import free_port

HERE = Path(__file__).resolve().parent
SITE = "served_site:application"
PATIENCE = 15.0

# The interpreter's own scripts folder holds the servers' commands.
SCRIPTS = Path(sys.executable).parent

COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "uvicorn": lambda port: [
        "uvicorn", SITE, "--port", port, "--ws", "websockets-sansio", "--log-level", "warning",
    ],
    "hypercorn": lambda port: ["hypercorn", SITE, "--bind", f"127.0.0.1:{port}", "--log-level", "warning"],
    "daphne": lambda port: ["daphne", SITE, "--port", port, "--verbosity", "0"],
    "granian": lambda port: ["granian", SITE, "--interface", "asgi", "--port", port, "--log-level", "warning"],
}  # fmt: skip


class Server:
    """A running server."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.events_file = folder / f"{name}-{self.port}.events"
        self.output_file = folder / f"{name}-{self.port}.output"
        self.events_file.touch()
        script, *arguments = COMMANDS[name](str(self.port))
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "PYTHONUNBUFFERED": "1",
            "SERVED_SITE_EVENTS": str(self.events_file),
        }
        with self.output_file.open("w") as output:
            self.process = subprocess.Popen(
                [str(SCRIPTS / script), *arguments],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def events(self, kind: str) -> list[list[Any]]:
        """What consumers noted under ``kind``, in order."""
        lines = [json.loads(line) for line in self.events_file.read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == kind]

    async def wait_for(self, kind: str, seen: Callable[[list[list[Any]]], Any]) -> Any:
        """What ``seen`` returns for the events of ``kind``, once that is true."""
        deadline = time.monotonic() + PATIENCE
        while not (found := seen(self.events(kind))):
            if time.monotonic() > deadline:
                pytest.fail(
                    f"{self.name} did not: {kind}: {self.events(kind)}; output: {self.output[-2000:]}"
                )
            await asyncio.sleep(0.02)
        return found

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"{self.name} did not come up: {self.output[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.05)

    def terminate(self) -> int:
        """Ask it to stop, as a deployment does; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)  # the session that was started for it
                self.process.wait(PATIENCE)


@pytest.fixture(scope="session", params=sorted(COMMANDS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each of the servers in turn, shared by all tests."""
    running = Server(request.param, tmp_path_factory.mktemp(request.param))
    running.wait_until_up()
    yield running
    running.stop()


@pytest.fixture(params=sorted(COMMANDS))
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Each of the servers in turn, for a test that stops it."""
    running = Server(request.param, tmp_path)
    running.wait_until_up()
    yield running
    running.stop()
