"""Small projects written into a folder, and their ``manage.py`` as a process of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

PATIENCE = 30.0

MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""

SETTINGS = """
SECRET_KEY = "of a test"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
ROOT_URLCONF = "project.urls"
USE_TZ = True
INSTALLED_APPS = ["channels_django", "django.contrib.staticfiles"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
STATIC_URL = "static/"
CHANNEL_LAYERS = {"default": {"BACKEND": "memory", "ROUTING": "project.routing.routes"}}
"""

URLS = """
import os
from django.http import HttpResponse
from django.urls import path

def hello(request):
    return HttpResponse(f"hello from {os.getpid()}")

def broken(request):
    return HttpResponse(status=500)

urlpatterns = [path("", hello), path("broken", broken)]
"""

ROUTING = """
from channels_router_regex import route

def echo(message):
    message.reply_channel.send({"text": message["text"]})

def left(message):
    print("left with", message["code"], flush=True)

routes = [route("websocket.receive", echo), route("websocket.disconnect", left)]
"""


class Project:
    """A project in ``folder``; its files can be written over."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        self.write("manage.py", MANAGE)
        contents = {"__init__": "", "settings": SETTINGS, "urls": URLS, "routing": ROUTING, **files}
        for name, text in contents.items():
            self.write(f"project/{name}.py", text)

    def write(self, path: str, text: str) -> None:
        where = self.folder / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)

    def environment(self) -> dict[str, str]:
        keep = {
            name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "CHANNELS_"))
        }
        return keep | {
            "PYTHONWARNINGS": "default",
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> "Running":
        """Start ``manage.py`` with ``arguments``."""
        return Running(
            [sys.executable, "manage.py", *arguments],
            self.folder,
            self.environment() | dict(environment or {}),
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``manage.py`` with ``arguments`` to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


class Running:
    """A process of a project. Used as a context manager it is ended at the end, with its children."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, text: str, *, times: int = 1, nudge: Callable[[], None] | None = None) -> None:
        """Wait until it has printed ``text`` so many times; ``nudge`` is called every two seconds meanwhile."""
        if nudge is not None:
            self._wait_nudging(text, nudge)
            return
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while "".join(self._lines).count(text) < times:
                left = deadline - time.monotonic()
                if left <= 0 or (self._process.poll() is not None and not self._reader.is_alive()):
                    raise AssertionError(f"It never printed {text!r}; it printed:\n{''.join(self._lines)}")
                self._changed.wait(min(left, 0.2))

    def _wait_nudging(self, text: str, nudge: Callable[[], None]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            nudge()
            with self._changed:
                if self._changed.wait_for(lambda: text in "".join(self._lines), 2.0):
                    return
        raise AssertionError(f"It never printed {text!r}; it printed:\n{self.output}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process alone, as a service manager does."""
        self._process.send_signal(number)

    def interrupt_group(self) -> None:
        """Ctrl-C: the terminal signals all processes."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
