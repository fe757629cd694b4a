"""Worker processes under one: what dies is replaced, signals are passed on once, the status says how it went."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from channels_core.worker import Supervisor
from workbench import WAIT, wait_until

SUPERVISOR = """
import logging, sys
from channels_core.worker import Supervisor

logging.basicConfig(format="%(message)s")
sys.exit(Supervisor([sys.executable, sys.argv[1]], 2, stop_timeout=float(sys.argv[2])).run())
"""

STEADY = """
import os, signal, sys, time

def stop(signum, frame):
    time.sleep(0.3)  # what it has in hand
    os.write(1, b"clean\\n")  # whole lines, also where both write at once
    sys.exit(0)

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, stop)
os.write(1, f"ready {os.getpid()}\\n".encode())
while True:
    signal.pause()
"""

STUBBORN = STEADY.replace(
    "signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
)


@contextmanager
def supervising(folder: Path, source: str, stop_timeout: float = 30.0) -> Iterator[subprocess.Popen[str]]:
    (folder / "child.py").write_text(source)
    (folder / "supervisor.py").write_text(SUPERVISOR)
    with subprocess.Popen(
        [sys.executable, folder / "supervisor.py", folder / "child.py", str(stop_timeout)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def pids_of(process: subprocess.Popen[str], count: int = 2) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline().removeprefix("ready ")) for _ in range(count)]


def test_a_signal_that_comes_twice_at_once_is_one_request(tmp_path: Path) -> None:
    with supervising(tmp_path, STEADY) as process:
        pids_of(process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=WAIT)

    assert (process.returncode, output, errors) == (0, "clean\nclean\n", "")


def test_a_second_signal_after_a_while_kills(tmp_path: Path) -> None:
    with supervising(tmp_path, STUBBORN) as process:
        pids_of(process)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.2)
        process.send_signal(signal.SIGTERM)

        assert process.wait(WAIT) == 1


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    with supervising(tmp_path, STUBBORN, stop_timeout=0.3) as process:
        pids_of(process)
        process.send_signal(signal.SIGTERM)

        assert process.wait(WAIT) == 1


def test_a_child_that_is_killed_is_replaced_and_the_status_is_that_of_the_last(tmp_path: Path) -> None:
    with supervising(tmp_path, STEADY) as process:
        first, _ = pids_of(process)
        os.kill(first, signal.SIGKILL)
        (new,) = pids_of(process, 1)
        assert new != first
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=WAIT)

    assert (process.returncode, output) == (0, "clean\nclean\n")
    assert errors.startswith(f"Worker process {first} ended with status -9 after ")
    assert errors.endswith("; a new one is started in 1.0 s.\n")


def test_children_that_die_at_once_are_waited_for_longer_each_time(tmp_path: Path) -> None:
    with supervising(tmp_path, "import sys; sys.exit(3)") as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(4)]
        process.send_signal(signal.SIGTERM)

        assert process.wait(WAIT) == 0
    assert all("ended with status 3 after" in line for line in lines)
    assert [line.rsplit(" in ", 1)[1] for line in lines] == ["1.0 s.\n"] * 2 + ["2.0 s.\n"] * 2


def test_a_command_that_cannot_be_started_is_tried_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor([str(tmp_path / "nothing here")], 1)

    def stop() -> None:
        wait_until(lambda: caplog.messages)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()

    assert supervisor.run() == 0
    stopper.join()
    assert caplog.messages[0] == (
        f"A worker process could not be started: [Errno 2] No such file or directory: '{tmp_path}/nothing here'; a new"
        " one is started in 1.0 s."
    )
