"""Run the benchmarks: ``make bench``, or ``python -m benchmarks.run`` with arguments.

Contestants are measured in turn within each round, so that a change of the machine's mood hits all of them alike.
A whole run writes RESULTS.md; a run of a selection prints its tables and leaves the file alone unless told otherwise.
"""

import argparse
import datetime as dt
import sys
from collections.abc import Iterable

from benchmarks.environments import BENCHMARKS, BenchError, machine
from benchmarks.measurements import ServerInfo
from benchmarks.profiling import profile_echo
from benchmarks.report import Run, render, render_scenario
from benchmarks.scenarios import CONTESTANTS, SCENARIOS, Scenario, Size

__all__ = ["main"]

RESULTS = BENCHMARKS / "RESULTS.md"
WHOLE = Size(seconds=4.0, repeats=20, layer_pairs=300_000, connects=3000, idle_seconds=21.0)
QUICK = Size(seconds=1.0, repeats=5, layer_pairs=50_000, connects=600, idle_seconds=3.0)
PROFILED = ("ours-sync", "ours-async")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--scenario", action="append", choices=sorted(SCENARIOS), help="only these; may be repeated"
    )
    parser.add_argument(
        "--contestant", action="append", choices=sorted(CONTESTANTS), help="only these; may be repeated"
    )
    parser.add_argument("--rounds", type=int, help="measurements of each contestant (5; 1 with --quick)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round without the slowest: to see that everything works",
    )
    parser.add_argument("--profile", action="store_true", help="only sample where the time goes")
    parser.add_argument("--no-profile", action="store_true", help="leave the samples out")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md even from a selection")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def measure(
    scenario: Scenario, names: Iterable[str], *, rounds: int, size: Size
) -> tuple[dict[str, list[dict[str, float]]], dict[str, ServerInfo], dict[str, str]]:
    """The figures of every round, what the servers said of themselves, and who gave up, and why.

    A contestant that fails in one round is not tried in the next.
    """
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    servers: dict[str, ServerInfo] = {}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for name, measured in figures.items():
            if name in failures or (number and name in scenario.once):
                continue
            try:
                seen = scenario.measure(CONTESTANTS[name], size)
            except BenchError as error:
                failures[name] = str(error).splitlines()[0]
                print(f"{scenario.name} round {number + 1}/{rounds} {name}: {error}", file=sys.stderr)
                continue
            measured.append(dict(seen.values))
            if seen.server is not None:
                servers[name] = seen.server
            first = scenario.metrics[0]
            value = f"{seen.values[first.name]:,.{first.digits}f} {first.unit}"
            print(f"{scenario.name} round {number + 1}/{rounds} {name}: {value}", file=sys.stderr)
    measured_ones = {name: measured for name, measured in figures.items() if measured}
    return measured_ones, servers, failures


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write."""
    options = parse(arguments)
    size = QUICK if options.quick else WHOLE
    chosen = set(options.contestant or CONTESTANTS)
    state = machine()
    figures, servers, failures, profiles = {}, {}, {}, {}
    for name in () if options.profile else options.scenario or SCENARIOS:
        scenario = SCENARIOS[name]
        names = [contestant for contestant in scenario.contestants if contestant in chosen]
        if options.quick:
            names = [contestant for contestant in names if contestant not in scenario.once]
        if not names:
            continue
        figures[name], seen, failures[name] = measure(scenario, names, rounds=options.rounds, size=size)
        servers.update(seen)
        print(render_scenario(scenario, figures[name], failures[name]), flush=True)
    is_whole = not (options.scenario or options.contestant or options.profile)
    if options.profile or (is_whole and not options.no_profile):
        for name in (name for name in PROFILED if name in chosen):
            profiles[name] = profile_echo(CONTESTANTS[name], seconds=2 * size.seconds)
            print(profiles[name], flush=True)
    if options.write or (is_whole and not options.quick):
        run = Run(
            date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            rounds=options.rounds,
            machine=state,
            servers=servers,
            figures=figures,
            failures=failures,
            profiles=profiles,
        )
        RESULTS.write_text(render(run))
        print(f"Wrote {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
