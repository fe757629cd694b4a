"""Turns the figures of one run into Markdown: medians, spreads, ratios, targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measurements import ServerInfo
from benchmarks.scenarios import CONTESTANTS, SCENARIOS, Metric, Scenario, Target

__all__ = ["Run", "render", "render_scenario"]

INTRODUCTION = """\
Written by `make bench`; do not edit. Every contestant of a table was measured in the same run, in turn with the others,
each time in a fresh server process, with the load in a process of its own. Figures are medians, with the lowest and
highest round in brackets after the first. Absolute figures belong to this machine: compare ratios.
[README.md](README.md) says what each scenario does.
"""

TARGETS = """\
Absolute targets were set on a machine where the bare application made 60,700 echoes and 4,508 connects a second and the
layer of Channels 4 156,000 pairs; where this machine is slower, the same target stands beside it as a ratio.
"""

Rounds = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: for each scenario and contestant the figures of every round, and where they come from."""

    date: str
    rounds: int
    machine: Mapping[str, str]
    servers: Mapping[str, ServerInfo]
    figures: Mapping[str, Rounds]
    failures: Mapping[str, Mapping[str, str]]
    """For each scenario the contestants that gave up, and why."""
    profiles: Mapping[str, str]


def median_of(rounds: Sequence[Mapping[str, float]], metric: str) -> float:
    """The median of one metric over the rounds of one contestant."""
    return median(values[metric] for values in rounds)


def render(run: Run) -> str:
    """The whole of RESULTS.md."""
    parts = [
        "# Results\n",
        INTRODUCTION,
        _render_origin(run),
        _render_targets(run),
        *(
            render_scenario(SCENARIOS[name], rounds, run.failures.get(name, {}))
            for name, rounds in run.figures.items()
        ),
    ]
    if run.profiles:
        parts.append("## Where the time goes\n")
        parts.extend(run.profiles.values())
    return "\n".join(parts)


def _render_origin(run: Run) -> str:
    lines = [f"{run.date}; {run.rounds} rounds.\n"]
    lines += _table(("Machine", ""), [(name, value) for name, value in run.machine.items()])
    lines.append("")
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, info in run.servers.items():
        packages = ", ".join(f"{package} {version}" for package, version in info.packages.items())
        row = (info.python, info.server, info.loop, info.websocket, info.http, packages)
        rows.setdefault(row, []).append(name)
    lines += _table(
        ("Contestants", "Python", "Server", "Event loop", "WebSocket", "HTTP", "Packages"),
        [(", ".join(names), *row) for row, names in rows.items()],
    )
    return "\n".join(lines) + "\n"


def render_scenario(scenario: Scenario, rounds: Rounds, failures: Mapping[str, str]) -> str:
    """One table: a row for each contestant that was measured; below it, who gave up."""
    first, *others = scenario.metrics
    head = ["", f"{first.title} ({first.unit})"]
    baseline = rounds.get(scenario.baseline)
    if baseline:
        head.append(f"ratio to {scenario.baseline}")
    head += [f"{metric.title} ({metric.unit})" for metric in others]
    rows = []
    for name, measured in rounds.items():
        row = [CONTESTANTS[name].title, _with_spread(first, measured)]
        if baseline:
            reference = median_of(baseline, first.name)
            row.append(f"{median_of(measured, first.name) / reference:.2f}" if reference else "-")
        row += [_number(metric, median_of(measured, metric.name)) for metric in others]
        rows.append(row)
    lines = [f"## {scenario.title}\n", scenario.explanation + "\n", *_table(head, rows)]
    lines += [f"\n{CONTESTANTS[name].title}: gave up. {reason}" for name, reason in failures.items()]
    return "\n".join(lines) + "\n"


def _render_targets(run: Run) -> str:
    rows = [
        _target_row(scenario, target, contestant, rounds)
        for scenario in (SCENARIOS[name] for name in run.figures)
        for target in scenario.targets
        for contestant in target.contestants
        if contestant in (rounds := run.figures[scenario.name])
        and (target.relative_to is None or target.relative_to in rounds)
    ]
    if not rows:
        return ""
    return (
        "\n".join(("## Targets\n", TARGETS, *_table(("Scenario", "Contestant", "Target", "Seen", ""), rows)))
        + "\n"
    )


def _target_row(scenario: Scenario, target: Target, contestant: str, rounds: Rounds) -> tuple[str, ...]:
    metric = next(metric for metric in scenario.metrics if metric.name == target.metric)
    seen = median_of(rounds[contestant], metric.name)
    if target.relative_to is None:
        wanted = f"{metric.title} {target.bound} {_number(metric, target.value)} {metric.unit}"
        shown = f"{_number(metric, seen)} {metric.unit}"
    else:
        seen /= median_of(rounds[target.relative_to], metric.name)
        wanted = f"{metric.title} {target.bound} {target.value:.2f} of {target.relative_to}"
        shown = f"{seen:.2f}"
    if target.aim is not None:
        wanted += f", aim {target.aim:.2f}"
    is_reached = seen >= target.value if target.bound == "at least" else seen <= target.value
    return (
        scenario.title,
        CONTESTANTS[contestant].title,
        wanted,
        shown,
        "reached" if is_reached else "**not reached**",
    )


def _with_spread(metric: Metric, rounds: Sequence[Mapping[str, float]]) -> str:
    values = [measured[metric.name] for measured in rounds]
    if len(values) == 1:
        return f"{_number(metric, values[0])} (1 round)"
    return (
        f"{_number(metric, median(values))} ({_number(metric, min(values))}-{_number(metric, max(values))})"
    )


def _number(metric: Metric, value: float) -> str:
    return f"{value:,.{metric.digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown lines; the first column to the left, figures to the right where there are more than two columns."""
    rule = ["---"] * len(head)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
