"""The chat demo as its own process, for the tests that talk to it over real sockets."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from ports import free_port

MANAGE = Path(__file__).resolve().parents[2] / "examples" / "chat" / "manage.py"
PATIENCE = 40.0


def demo_environment(folder: Path) -> dict[str, str]:
    """The environment of a demo process whose database is in ``folder``."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "CHANNELS_"))
    }
    return environment | {"CHAT_DATABASE": str(folder / "chat.sqlite3"), "PYTHONWARNINGS": "default"}


class ChatDemo:
    """``manage.py demo`` on a port of its own. It can be stopped, killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def socket_url(self, room: str = "lobby") -> str:
        return f"ws://127.0.0.1:{self.port}/rooms/{room}/ws"

    @property
    def output(self) -> str:
        """What all processes have printed so far."""
        return (self.folder / "demo.log").read_text()

    def start(self) -> None:
        """Start and wait until it answers."""
        with (self.folder / "demo.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(MANAGE), "demo", "--port", str(self.port)],
                env=demo_environment(self.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(f"{self.origin}/", timeout=5).raise_for_status()
                return
            except httpx.HTTPError as exc:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                self.kill()
                raise AssertionError(
                    f"The demo does not answer ({exc!r}). It printed:\n{self.output}"
                ) from exc

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop, as Ctrl-C does, and return its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it at once; nothing happens where it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
