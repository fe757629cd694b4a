"""Several worker processes under one: fresh interpreters, never forks."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from types import FrameType

__all__ = ["Supervisor"]

logger = logging.getLogger("channels.worker")

SAME_REQUEST = 1.0
"""A signal so many seconds after the first is the same request still."""
_STEADY = 10.0
"""Seconds after which a child that ends is replaced at once; one that ends sooner waits, longer each time."""


class Supervisor:
    """Runs ``command`` ``processes`` times and replaces what dies, until SIGTERM or SIGINT.

    The first signal is passed on to the children as SIGTERM and they are waited for, at most ``stop_timeout``
    seconds; a signal more than a second later kills them. :meth:`run` must be called in the main thread.
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
        self._first_signal: float | None = None
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
        clean = {0, -signal.SIGTERM, -signal.SIGINT}
        return 0 if all(child.returncode in clean for child in self._children) else 1

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_first = self._first_signal is None
        if is_first:
            self._first_signal = monotonic()
        elif monotonic() - (self._first_signal or 0.0) <= SAME_REQUEST:
            return  # a terminal signals the whole group, and a wrapper in it passes its own on
        for child in list(self._children):
            if child.poll() is None:
                if is_first:
                    child.terminate()
                else:
                    child.kill()

    def _keep(self) -> None:
        """One child after another in one place."""
        pause = 0.5
        stopping = threading.Event()
        while not self._is_stopping:
            started = monotonic()
            try:
                ended = self._run_child()
            except OSError as error:
                ended = f"A worker process could not be started: {error}"
            if ended is None:
                return
            pause = 0.5 if monotonic() - started > _STEADY else min(pause * 2, 10.0)
            logger.error("%s; a new one is started in %.1f s.", ended, pause)
            end = monotonic() + pause
            while not self._is_stopping and monotonic() < end:
                stopping.wait(0.1)

    def _run_child(self) -> str | None:
        """Start one child and wait for its end; how it ended, if nobody had asked it to."""
        started = monotonic()
        with self._lock:
            child = subprocess.Popen(self._command, env=self._environment)
            self._children.append(child)
        if self._is_stopping:
            child.terminate()
        while child.poll() is None and not self._is_stopping:
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.2)
        if self._is_stopping:
            try:
                child.wait(self._stop_timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            return None
        with self._lock:
            self._children.remove(child)
        return (
            f"Worker process {child.pid} ended with status {child.returncode} after"
            f" {monotonic() - started:.1f} s"
        )

    @property
    def _is_stopping(self) -> bool:
        return self._first_signal is not None
