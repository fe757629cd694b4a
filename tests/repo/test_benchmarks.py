"""The benchmarks run and count right. What they measure is never tested: figures belong to a machine and its mood."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc and uses epoll")
def test_a_selection_is_measured_and_printed_and_the_results_file_left_alone() -> None:
    results = ROOT / "benchmarks" / "RESULTS.md"
    before = results.read_bytes() if results.exists() else None
    selection = ["--scenario", "echo-1", "--scenario", "http", "--contestant", "bare"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--quick", *selection],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "## WebSocket echo, 1 connection" in done.stdout
    assert "## HTTP hello world" in done.stdout
    assert done.stdout.count("| bare ASGI application | ") == 2
    assert (results.read_bytes() if results.exists() else None) == before


def test_percentiles_are_nearest_ranks() -> None:
    from benchmarks.measurements import Percentiles

    assert Percentiles.of(range(100, 0, -1)) == Percentiles(p50=50, p90=90, p99=99, worst=100)
    assert Percentiles.of([7.0]) == Percentiles(p50=7.0, p90=7.0, p99=7.0, worst=7.0)
    with pytest.raises(ValueError, match=r"^No latencies to rank: the load made no round trip$"):
        Percentiles.of([])


def test_the_table_shows_medians_spreads_and_ratios() -> None:
    from benchmarks.report import render_scenario
    from benchmarks.scenarios import SCENARIOS

    rounds = {
        "channels4-layer": [{"pairs": 100.0}, {"pairs": 300.0}, {"pairs": 200.0}],
        "ours-layer": [{"pairs": 500.0}],
    }
    table = render_scenario(SCENARIOS["layer"], rounds, {"channels4-layer": "No answer for 60 seconds"})
    assert "| Channels 4, in-memory layer | 200 (100-300) | 1.00 |" in table
    assert "| ours, memory layer | 500 (1 round) | 2.50 |" in table
    assert table.endswith("\nChannels 4, in-memory layer: gave up. No answer for 60 seconds\n")


def test_targets_are_judged_by_medians_alone_and_against_the_others() -> None:
    from benchmarks.report import Run, render
    from benchmarks.scenarios import SCENARIOS

    echo = {metric.name: 1.0 for metric in SCENARIOS["echo-50"].metrics}
    figures = {
        "echo-50": {
            "bare": [{**echo, "rate": 1000.0}],
            "ours-sync": [{**echo, "rate": 560.0}],
            "ours-async": [{**echo, "rate": 540.0}],
        },
        "layer": {"ours-layer": [{"pairs": 200_001.0}]},
    }
    text = render(
        Run(
            date="today",
            rounds=1,
            machine={"CPUs": "2"},
            servers={},
            figures=figures,
            failures={},
            profiles={},
        )
    )
    wanted = "echoes at least 0.55 of bare, aim 0.70"
    assert f"| WebSocket echo, 50 connections | ours, sync consumer | {wanted} | 0.56 | reached |" in text
    assert f"| ours, `async def` consumer | {wanted} | 0.54 | **not reached** |" in text
    assert "| ours, memory layer | pairs at least 200,000 /s | 200,001 /s | reached |" in text


def test_samples_count_for_the_running_function() -> None:
    from benchmarks.environments import BenchError
    from benchmarks.profiling import summarise

    summary = summarise(
        [
            "thread (1): MainThread;run (/x/uvicorn/server.py:1);echo (/x/channels_core/interface/asgi.py:9) 3",
            "thread (2): worker;loop (/x/channels_core/worker/readers.py:5) 1",
        ]
    )
    assert "| interface application | 75.0% |" in summary
    assert "| worker | 25.0% |" in summary
    assert "| `echo` (channels_core/interface/asgi.py) | 75.0% |" in summary
    with pytest.raises(
        BenchError, match=r"^py-spy took no samples of a thread that holds the interpreter lock$"
    ):
        summarise([])
