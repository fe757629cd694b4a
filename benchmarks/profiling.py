"""Where the time goes: samples of a server under load, summed up by part of the system and by function.

py-spy takes the samples from outside, only of threads that hold the interpreter lock, so waiting does not count and the
program under load is not changed.  Time in C code (the event loop's own reading and writing) counts for the Python
function that called it.
"""

import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.environments import BenchError, py_spy
from benchmarks.measurements import EchoLoad
from benchmarks.servers import Contestant, load, serve

__all__ = ["part_of", "profile_echo", "summarise"]

SAMPLES_PER_SECOND = 400
FUNCTIONS_SHOWN = 25
PARTS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("interface application", lambda path: "channels_core/interface" in path),
    ("worker", lambda path: "channels_core/worker" in path),
    ("messages, channels, layer face, held sends", lambda path: "channels_core/" in path),
    ("memory layer", lambda path: "channels_layer_memory/" in path),
    ("router", lambda path: "channels_router_regex/" in path),
    ("sessions and origins", lambda path: "channels_session_django/" in path or "channels_origin_" in path),
    ("Django integration", lambda path: "channels_django/" in path),
    ("the application's consumers", lambda path: "benchmarks/contestants/" in path),
    ("server: uvicorn", lambda path: "/uvicorn/" in path),
    ("server: websockets", lambda path: "/websockets/" in path),
    ("Django", lambda path: "/django/" in path),
    ("asgiref", lambda path: "/asgiref/" in path),
    ("event loop", lambda path: "/asyncio/" in path or "uvloop" in path),
    ("standard library", lambda path: "/lib/python" in path or path.startswith("<frozen")),
)


def part_of(frame: str) -> str:
    """The part of the system that a frame, written as `function (path:line)`, belongs to."""
    path = frame.rpartition(" (")[2]
    return next((part for part, is_in in PARTS if is_in(path)), "other")


def profile_echo(contestant: Contestant, *, seconds: float) -> str:
    """Sample the contestant's server during an echo load of 50 connections; returns Markdown."""
    with tempfile.TemporaryDirectory() as folder, serve(contestant) as server:
        samples = Path(folder) / "samples"
        record = [str(py_spy()), "record", "--pid", str(server.pid), "--gil", "--threads", "--function"]
        record += ["--full-filenames", "--format", "raw", "--output", str(samples)]
        record += ["--rate", str(SAMPLES_PER_SECOND), "--duration", str(max(1, int(seconds)))]
        with subprocess.Popen(record, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sampler:
            seen = load(EchoLoad, "echo", server, connections=50, seconds=seconds)
            _, complaints = sampler.communicate(timeout=60)
        if not samples.exists():
            raise BenchError(
                "py-spy could not sample the server; it needs the right to trace processes of the same user "
                f"(kernel.yama.ptrace_scope, or run as root):\n{complaints.decode().strip()}"
            )
        summary = summarise(samples.read_text().splitlines())
    return f"### Echo, 50 connections: {contestant.title}\n\n{seen.rate:,.0f} echoes/s while sampled.\n\n{summary}"


def summarise(lines: list[str]) -> str:
    """Markdown tables from py-spy's raw lines, `frame;frame;... count`, the last frame being the running one."""
    threads, parts, functions = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        threads[frames[0]] += int(count)
        parts[part_of(frames[-1])] += int(count)
        functions[_short(frames[-1])] += int(count)
    total = sum(parts.values())
    if not total:
        raise BenchError("py-spy took no samples of a thread that holds the interpreter lock")
    tables = []
    for title, counter, shown in (
        ("Thread", threads, 8),
        ("Part (own time)", parts, len(PARTS) + 1),
        ("Function (own time)", functions, FUNCTIONS_SHOWN),
    ):
        rows = [f"| {name} | {count / total:.1%} |" for name, count in counter.most_common(shown)]
        tables.append("\n".join((f"| {title} | share |", "| --- | ---: |", *rows, "")))
    return "\n".join(tables)


def _short(frame: str) -> str:
    """`function (package/module.py)`: the last three parts of the path are enough to find it."""
    function, _, place = frame.rpartition(" (")
    path = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"`{function}` ({'/'.join(Path(path).parts[-3:])})"
