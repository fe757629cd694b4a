"""Autoreload that stops the old process before it starts the new one.

Django's reloader finds the changed files. What is ours is the parent process, which hands signals on where Django's
kills the child, and that the child ends what it runs before it exits: sockets close, and consumers finish.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType

from django.utils import autoreload

__all__ = ["run_with_reloader"]

_RELOAD = 3
"""The exit status by which the child asks to be started anew."""
_IMPATIENT = 4
"""Signals after which the child ends at once. Ctrl-C counts twice: from the terminal and from the parent."""


def run_with_reloader(main: Callable[[], None], stop: Callable[[], None]) -> None:
    """Run ``main`` in a child process that is started anew whenever a Python file changes.

    ``stop`` is called in the child before it ends, for whatever reason; it makes ``main`` return, and waits for that.
    In the parent this never returns: it exits with the child's status. Must be called in the main thread.
    """
    if os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV) != "true":
        sys.exit(_keep_child())
    signals = 0

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            raise KeyboardInterrupt
        if signals >= _IMPATIENT:
            os._exit(128 + signum)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        autoreload.run_with_reloader(main)
    finally:
        signal.signal(signal.SIGTERM, on_interrupt)
        signals += 1
        stop()


def _keep_child() -> int:
    """Run children until one ends otherwise than by asking for the next; its exit status."""
    environment = {**os.environ, autoreload.DJANGO_AUTORELOAD_ENV: "true"}
    command = autoreload.get_child_arguments()
    child: subprocess.Popen[bytes] | None = None
    is_stopping = threading.Event()

    def hand_on(signum: int, frame: FrameType | None) -> None:
        is_stopping.set()
        if child is not None and child.poll() is None:
            if sys.platform == "win32":
                child.terminate()
            else:
                child.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not is_stopping.is_set():
            child = subprocess.Popen(command, env=environment, close_fds=False)
            if is_stopping.is_set():
                hand_on(signal.SIGTERM, None)
            status = child.wait()
            if status != _RELOAD:
                return status
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
