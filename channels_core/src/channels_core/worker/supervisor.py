"""Several worker processes under one: fresh interpreters, never forks."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from types import FrameType

__all__ = ["Supervisor"]

logger = logging.getLogger("channels.worker")

_STEADY = 10.0
"""Seconds after which a child that ends is replaced at once; one that ends sooner waits, longer each time."""


class Supervisor:
    """Runs ``command`` ``processes`` times and replaces what dies, until SIGTERM or SIGINT.

    The first signal is passed on to the children as SIGTERM and they are waited for, at most ``stop_timeout``
    seconds; a second signal kills them. :meth:`run` must be called in the main thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        stop_timeout: float = 35.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = list(command)
        self._processes = processes
        self._stop_timeout = stop_timeout
        self._environment = None if environment is None else dict(environment)
        self._children: list[subprocess.Popen[bytes]] = []
        self._signals = 0
        self._lock = threading.Lock()

    @property
    def pids(self) -> list[int]:
        """The process ids of the living children."""
        return [child.pid for child in self._children if child.poll() is None]

    def run(self) -> int:
        """Run until signalled; 0 when every child ended cleanly after it."""
        before = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        keepers = [threading.Thread(target=self._keep, daemon=True) for _ in range(self._processes)]
        try:
            for keeper in keepers:
                keeper.start()
            for keeper in keepers:
                while keeper.is_alive():
                    keeper.join(0.2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        # A child that was told to stop before it listened for signals had begun nothing.
        clean = {0, -signal.SIGTERM}
        return 0 if all(child.returncode in clean for child in self._children) else 1

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signals += 1
        for child in list(self._children):
            if child.poll() is None:
                if self._signals > 1:
                    child.kill()
                else:
                    child.terminate()

    def _keep(self) -> None:
        """One child after another in one place."""
        pause = 0.5
        stopping = threading.Event()
        while not self._signals:
            started = monotonic()
            with self._lock:
                child = subprocess.Popen(self._command, env=self._environment)
                self._children.append(child)
            if self._signals:
                child.terminate()
            while child.poll() is None and not self._signals:
                try:
                    child.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
            if self._signals:
                try:
                    child.wait(self._stop_timeout)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                return
            with self._lock:
                self._children.remove(child)
            lived = monotonic() - started
            pause = 0.5 if lived > _STEADY else min(pause * 2, 10.0)
            logger.error(
                "Worker process %d ended with status %d after %.1f s; a new one is started in %.1f s.",
                child.pid,
                child.returncode,
                lived,
                pause,
            )
            end = monotonic() + pause
            while not self._signals and monotonic() < end:
                stopping.wait(0.1)
