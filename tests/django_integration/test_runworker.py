"""``runworker`` and ``manage.py channels`` as processes."""

import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from channels_django.management.commands.runworker import Command as RunWorker
from testsite.projects import SETTINGS, Project

# In memory and yet not refused: what it is given, by a receiver in the same process, is enough to see a worker work.
LAYERS = """
from channels_layer_memory.layer import MemoryBackend

class Shared(MemoryBackend):
    local_only = False
"""

ROUTING = """
import os, threading
from channels_core import Channel
from channels_router_regex import route
from channels_django.signals import worker_process_ready

def job(message):
    print("job", message["number"], "in", threading.current_thread().name, flush=True)

def other(message):
    print("other", message["number"], flush=True)

def slow(message):
    print("slow begins", flush=True)
    import time
    time.sleep(1)
    print("slow ends", flush=True)

def on_ready(sender, **kwargs):
    print("ready", sender.__module__, flush=True)
    for number in range(3):
        Channel("jobs").send({"number": number})
        Channel("others").send({"number": number})
    Channel("slow").send({})

worker_process_ready.connect(on_ready)
routes = [route("jobs", job), route("others", other), route("slow", slow)]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    settings = SETTINGS.replace('"BACKEND": "memory"', '"BACKEND": "project.layers.Shared"')
    return Project(tmp_path, settings=settings, layers=LAYERS, routing=ROUTING)


def test_a_local_layer_is_refused_with_a_remedy() -> None:
    with pytest.raises(CommandError) as caught:
        call_command("runworker")
    assert str(caught.value) == (
        "The channel layer 'default' (MemoryBackend) keeps messages inside one process, so a separate worker would see"
        " none. Use runserver, which runs workers inside, or name a layer that reaches across processes as its BACKEND"
        " in CHANNEL_LAYERS."
    )


def test_an_unknown_layer_is_refused_with_what_there_is() -> None:
    with pytest.raises(CommandError) as caught:
        call_command("runworker", layer="defualt")
    assert str(caught.value) == (
        "No channel layer has the alias 'defualt'. Configured: default. Add it to CHANNEL_LAYERS."
    )


def test_autoreload_is_for_one_process(project: Project) -> None:
    done = project.run("runworker", "--autoreload", "--processes=2")
    assert done.returncode == 1
    assert "--autoreload runs one process: leave out --processes, or --autoreload." in done.stderr


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_counts_are_at_least_one(threads: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("runworker", f"--threads={threads}")
    assert str(caught.value) == f"Error: argument --threads: {threads!r} is not a whole number of at least 1"


def test_it_runs_consumers_and_finishes_what_is_in_hand(project: Project) -> None:
    with project.start("runworker", "--threads=2") as worker:
        worker.wait_for("slow begins")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        output = worker.output
    assert f"ready {RunWorker.__module__}" in output
    assert (
        "http.request, jobs, others, slow, websocket.connect, websocket.disconnect, websocket.receive"
        in output
    )
    assert "slow ends" in output
    assert "Traceback" not in output


def test_filters(project: Project) -> None:
    with project.start(
        "runworker", "--only-channels=j*", "--only-channels=slow", "--exclude-channels=sl?w"
    ) as worker:
        worker.wait_for("job 2")
        assert "Worker of layer 'default' listens on: jobs\n" in worker.output
        worker.interrupt_group()
        assert worker.wait() == 0
        assert "other" not in worker.output
        assert "slow" not in worker.output


def test_filters_that_leave_nothing_are_an_error(project: Project) -> None:
    done = project.run("runworker", "--only-channels=chat.*")
    assert done.returncode == 1
    assert "CommandError: The worker of layer 'default' has nothing to read" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_processes_are_replaced_when_they_die_and_end_together(project: Project) -> None:
    project.write("project/routing.py", ROUTING + '\nprint(f"<pid {os.getpid()}>", flush=True)\n')
    with project.start("runworker", "--processes=2", "--only-channels=jobs") as supervisor:
        supervisor.wait_for("listens on: jobs", times=2)
        pids = {int(found) for found in re.findall(r"<pid (\d+)>", supervisor.output)} - {supervisor.pid}
        assert len(pids) == 2, supervisor.output
        child = min(pids)
        os.kill(child, signal.SIGKILL)
        supervisor.wait_for("listens on: jobs", times=3)
        supervisor.signal(signal.SIGTERM)
        assert supervisor.wait() == 0


def test_autoreload_starts_anew_with_the_new_code(project: Project) -> None:
    with project.start("runworker", "--autoreload", "--only-channels=jobs") as worker:
        worker.wait_for("job 2")
        changed = ROUTING.replace('"job"', '"work"')
        # Django's reloader does not see what changes before its first look around.
        worker.wait_for("work 2", nudge=partial(project.write, "project/routing.py", changed))
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert "Traceback" not in worker.output


def test_manage_py_channels_is_the_channels_command(project: Project) -> None:
    done = project.run("channels", "plugins")
    assert done.returncode == 0
    assert "memory" in done.stdout
    done = project.run("channels", "worker", "--layer=none")
    assert done.returncode == 1
    assert "manage.py channels: No channel layer has the alias 'none'." in done.stderr


def test_manage_py_channels_worker_has_the_default_routes(project: Project) -> None:
    with project.start("channels", "worker", "--exclude-channels=slow") as worker:
        worker.wait_for("reads http.request, jobs, others, websocket.connect")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
