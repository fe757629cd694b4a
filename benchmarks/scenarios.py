"""What is measured, on whom, and what it should come to.

A scenario measures one contestant once and returns one figure for each of its metrics; the runner repeats it and
alternates contestants, the report takes medians and ratios.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmarks.measurements import (
    BroadcastLoad,
    ConnectLoad,
    EchoLoad,
    EngineLayerLoad,
    ExpiredLoad,
    HttpLoad,
    Percentiles,
    ServerInfo,
)
from benchmarks.servers import Contestant, Server, engine_script, idle_sockets, layer_script, load, serve

__all__ = ["CONTESTANTS", "SCENARIOS", "Figures", "Metric", "Scenario", "Size", "Target"]

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything one measurement does."""

    seconds: float
    repeats: int
    layer_pairs: int
    connects: int
    idle_seconds: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of a scenario; `unit` is what the report prints, the figure is in that unit."""

    name: str
    title: str
    unit: str
    digits: int = 0


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a contestant's median should come to, by itself or as a ratio to another contestant's in the same run."""

    contestants: tuple[str, ...]
    metric: str
    bound: Literal["at least", "at most"]
    value: float
    relative_to: str | None = None
    aim: float | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One measurement of one contestant: a value for each metric, and what its server said of itself."""

    values: Mapping[str, float]
    server: ServerInfo | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One measurement of some contestants; those in `once` are so slow that one round has to do for them."""

    name: str
    title: str
    explanation: str
    contestants: tuple[str, ...]
    metrics: tuple[Metric, ...]
    measure: Callable[[Contestant, Size], Figures]
    baseline: str
    targets: tuple[Target, ...] = ()
    once: tuple[str, ...] = ()


CHANNELS4_ENGINES = (
    ("redis", "channels_redis", "valkey", "core"),
    ("redis-pubsub", "channels_redis, pub/sub", "valkey", "pubsub"),
    ("postgresql", "channels_postgres", "postgresql", "async"),
    ("sqlite", "channels-lite", "sqlite", "async"),
)

EXPIRED_ENGINES = (("postgresql", "PostgreSQL"), ("mariadb", "MariaDB"), ("sqlite", "SQLite"))

CONTESTANTS: Mapping[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Contestant(name="bare", title="bare ASGI application", folder="bare", app="bare_app:app"),
        Contestant(
            name="ours-sync", title="ours, sync consumer", folder="ours", app="bench_asgi:app", variant="sync"
        ),
        Contestant(
            name="ours-async",
            title="ours, `async def` consumer",
            folder="ours",
            app="bench_asgi:app",
            variant="async",
        ),
        Contestant(
            name="ours-in-process",
            title='ours, `CHANNELS["HTTP"] = "in-process"`',
            folder="ours",
            app="bench_asgi:app",
            variant="in-process",
        ),
        Contestant(
            name="channels4-async",
            title="Channels 4, async consumer",
            folder="channels4",
            app="channels4_app:app",
            variant="async",
        ),
        Contestant(
            name="channels4-sync",
            title="Channels 4, sync consumer",
            folder="channels4",
            app="channels4_app:app",
            variant="sync",
        ),
        Contestant(
            name="channels4-ablation",
            title="Channels 4, async consumer, **ablation**: `close_old_connections` visit removed",
            folder="channels4",
            app="channels4_app:app",
            variant="async-without-close",
        ),
        Contestant(
            name="django-asgi",
            title="Django's ASGI handler, sync view",
            folder="django_asgi",
            app="django_app:app",
        ),
        Contestant(
            name="django-asgi-async",
            title="Django's ASGI handler, async view",
            folder="django_asgi",
            app="django_app:app",
            variant="async",
        ),
        Contestant(name="ours-layer", title="ours, memory layer", folder="ours", app="bench_layer.py"),
        Contestant(
            name="ours-layer-async",
            title="ours, memory layer, `asend` and `areceive`",
            folder="ours",
            app="bench_layer.py",
            variant="async",
        ),
        Contestant(
            name="channels4-layer",
            title="Channels 4, in-memory layer",
            folder="channels4",
            app="channels4_layer.py",
        ),
        *(
            Contestant(
                name=f"ours-{engine_name}-{variant}",
                title=f"ours, {engine_title}, {variant_title}",
                folder="ours",
                app="bench_asgi:app",
                variant=variant,
                engine=engine,
                workers=1,
            )
            for engine_name, engine, engine_title in (
                ("redis", "valkey", "Redis layer"),
                ("postgresql", "postgresql", "database layer on PostgreSQL"),
                ("mariadb", "mariadb", "database layer on MariaDB"),
                ("sqlite", "sqlite", "database layer on SQLite"),
            )
            for variant, variant_title in (
                ("sync", "sync consumer in a worker process"),
                ("async", "`async def` consumer in a worker process"),
                ("sync-at-least-once", "sync consumer in a worker process, at-least-once"),
            )
        ),
        *(
            Contestant(
                name=f"channels4-{name}",
                title=f"Channels 4, {title}, async consumer",
                folder="channels4",
                app="channels4_app:app",
                variant=variant,
                engine=engine,
            )
            for name, title, engine, variant in CHANNELS4_ENGINES
        ),
        *(
            Contestant(
                name=f"ours-{name}-layer",
                title=f"ours, {title}",
                folder="ours",
                app="engine_layer.py",
                variant=variant,
                engine=engine,
            )
            for name, title, engine, variant in (
                ("redis", "Redis layer", "valkey", "async"),
                ("redis-at-least-once", "Redis layer, at-least-once", "valkey", "async-at-least-once"),
                ("postgresql", "database layer on PostgreSQL", "postgresql", "async"),
                (
                    "postgresql-at-least-once",
                    "database layer on PostgreSQL, at-least-once (durable sends)",
                    "postgresql",
                    "async-at-least-once",
                ),
                ("sqlite", "database layer on SQLite", "sqlite", "async"),
            )
        ),
        *(
            Contestant(
                name=f"ours-{engine}-expired",
                title=f"ours, database layer on {title}",
                folder="ours",
                app="expired_layer.py",
                variant="expired",
                engine=engine,
            )
            for engine, title in EXPIRED_ENGINES
        ),
        *(
            Contestant(
                name=f"channels4-{name}-layer",
                title=f"Channels 4, {title}",
                folder="channels4",
                app="engine_layer.py",
                variant=variant,
                engine=engine,
            )
            for name, title, engine, variant in CHANNELS4_ENGINES
        ),
    )
}


def served(measure: Callable[[Server, Size], Mapping[str, float]]) -> Callable[[Contestant, Size], Figures]:
    """A measurement that gets a fresh server of the contestant each time."""

    def measure_fresh(contestant: Contestant, size: Size) -> Figures:
        with serve(contestant) as server:
            return Figures(values=measure(server, size), server=server.info)

    return measure_fresh


def layer(contestant: Contestant, size: Size) -> Figures:
    return Figures(values={"pairs": layer_script(contestant, size.layer_pairs).pairs})


def engine_layer(contestant: Contestant, size: Size) -> Figures:
    seen = engine_script(contestant, size.seconds, EngineLayerLoad, patience=30 + 10 * size.seconds)
    in_flight, alone = Percentiles.of(seen.in_flight), Percentiles.of(seen.alone)
    return Figures(
        values={
            "in_flight": seen.in_flight_rate,
            "in_flight_p50": in_flight.p50 * 1000,
            "in_flight_p99": in_flight.p99 * 1000,
            "alone_p50": alone.p50 * 1000,
            "alone_p99": alone.p99 * 1000,
            "pairs": seen.pairs,
            "across": seen.across,
        }
    )


def expired(contestant: Contestant, size: Size) -> Figures:
    seen = engine_script(contestant, size.seconds, ExpiredLoad, patience=120 + 10 * size.seconds)
    rates = {batch: {name: median(turns) for name, turns in of.items()} for batch, of in seen.rates.items()}
    waits = Percentiles.of(seen.waits)
    return Figures(
        values={
            "rate": rates["1"]["default"],
            **{f"ratio_{batch}": of["default"] / of["empty"] for batch, of in rates.items()},
            "wait_p99": waits.p99 * 1000,
            "wait_worst": waits.worst * 1000,
            "cleaned": seen.cleaned,
        }
    )


def echo(connections: int) -> Callable[[Contestant, Size], Figures]:
    def measure(server: Server, size: Size) -> Mapping[str, float]:
        before = server.cpu_seconds()
        others = server.worker_cpu_seconds(), server.engine_cpu_seconds()
        seen = load(EchoLoad, "echo", server, connections=connections, seconds=size.seconds)
        return {
            "worker_cost": (server.worker_cpu_seconds() - others[0]) / seen.round_trips * 1e6,
            "engine_cost": (server.engine_cpu_seconds() - others[1]) / seen.round_trips * 1e6,
            "rate": seen.rate,
            "p50": seen.latency.p50 * 1000,
            "p99": seen.latency.p99 * 1000,
            "half_p50": seen.half_load_latency.p50 * 1000,
            "half_p99": seen.half_load_latency.p99 * 1000,
            "cost": (server.cpu_seconds() - before) / seen.round_trips * 1e6,
            "client_cpu": seen.client_cpu * 100,
        }

    return served(measure)


def broadcast(connections: int) -> Callable[[Contestant, Size], Figures]:
    def measure(server: Server, size: Size) -> Mapping[str, float]:
        seen = load(
            BroadcastLoad,
            "broadcast",
            server,
            connections=connections,
            seconds=2 * size.seconds,
            repeats=size.repeats,
        )
        return {
            "to_last": median(seen.to_last) * 1000,
            "best": min(seen.to_last) * 1000,
            "client_cpu": seen.client_cpu * 100,
        }

    return served(measure)


@served
def connects(server: Server, size: Size) -> Mapping[str, float]:
    seen = load(ConnectLoad, "connects", server, connections=size.connects)
    return {
        "rate": seen.rate,
        "p50": seen.latency.p50 * 1000,
        "p99": seen.latency.p99 * 1000,
        "client_cpu": seen.client_cpu * 100,
    }


@served
def idle(server: Server, size: Size) -> Mapping[str, float]:
    with idle_sockets(server, 500) as sockets:
        sockets.open()
        time.sleep(server.engine.settling)
        before = server.cpu_seconds()
        others = server.worker_cpu_seconds(), server.engine_cpu_seconds()
        asked = server.engine.count_statements()
        time.sleep(size.idle_seconds)
        asked = server.engine.count_statements() - asked
        return {
            "statements": asked / size.idle_seconds / (1 + len(server.workers)),
            "server_cpu": (server.cpu_seconds() - before) / size.idle_seconds * 100,
            "worker_cpu": (server.worker_cpu_seconds() - others[0]) / size.idle_seconds * 100,
            "engine_cpu": (server.engine_cpu_seconds() - others[1]) / size.idle_seconds * 100,
        }


@served
def memory(server: Server, size: Size) -> Mapping[str, float]:
    with idle_sockets(server, 1000) as sockets:
        before = server.resident_bytes()
        sockets.open()
        return {"per_thousand": (server.resident_bytes() - before) / MIB, "before": before / MIB}


@served
def http(server: Server, size: Size) -> Mapping[str, float]:
    before = server.cpu_seconds()
    seen = load(HttpLoad, "http", server, connections=50, seconds=size.seconds)
    return {
        "rate": seen.rate,
        "p50": seen.latency.p50 * 1000,
        "p99": seen.latency.p99 * 1000,
        "cost": (server.cpu_seconds() - before) / seen.round_trips * 1e6,
        "client_cpu": seen.client_cpu * 100,
    }


COST = Metric(name="cost", title="server CPU each", unit="µs")
CLIENT_CPU = Metric(name="client_cpu", title="client CPU", unit="%")
LATENCIES = (
    Metric(name="p50", title="p50", unit="ms", digits=3),
    Metric(name="p99", title="p99", unit="ms", digits=3),
)
ECHO_METRICS = (
    Metric(name="rate", title="echoes", unit="/s"),
    *LATENCIES,
    Metric(name="half_p50", title="half load p50", unit="ms", digits=3),
    Metric(name="half_p99", title="half load p99", unit="ms", digits=3),
    COST,
    CLIENT_CPU,
)
ENGINE_ECHO_METRICS = (
    *ECHO_METRICS[:-1],
    Metric(name="worker_cost", title="worker CPU each", unit="µs"),
    Metric(name="engine_cost", title="engine CPU each", unit="µs"),
    CLIENT_CPU,
)
ENGINE_LAYER_METRICS = (
    Metric(name="in_flight", title="round trips, 50 under way", unit="/s"),
    Metric(name="in_flight_p50", title="p50", unit="ms", digits=2),
    Metric(name="in_flight_p99", title="p99", unit="ms", digits=2),
    Metric(name="alone_p50", title="alone p50", unit="ms", digits=3),
    Metric(name="alone_p99", title="alone p99", unit="ms", digits=3),
    Metric(name="pairs", title="pairs one after another", unit="/s"),
    Metric(name="across", title="one sends, another takes", unit="/s"),
)
EXPIRED_METRICS = (
    Metric(name="rate", title="one at a time", unit="/s"),
    *(
        Metric(name=f"ratio_{batch}", title=f"batch {batch}", unit="of empty", digits=2)
        for batch in (1, 10, 50)
    ),
    Metric(name="wait_p99", title="beside cleaning p99", unit="ms", digits=1),
    Metric(name="wait_worst", title="longest", unit="ms", digits=1),
    Metric(name="cleaned", title="deleted", unit="/s"),
)
BROADCAST_METRICS = (
    Metric(name="to_last", title="to the last", unit="ms", digits=1),
    Metric(name="best", title="best", unit="ms", digits=1),
    CLIENT_CPU,
)
WEBSOCKET = ("bare", "ours-sync", "ours-async", "channels4-async", "channels4-sync")
OURS = ("ours-sync", "ours-async")

ENGINE_LAYER = (
    "One process asks, another answers, through a normal channel one way and a process-specific channel the other: "
    "with 50 requests under way, then one at a time. Sending and receiving one after another in one process. And one "
    "process that awaits each of its sends, while another takes the messages, as many at a time as its layer gives."
)
ENGINE_ECHO = (
    "Interface server, worker process and engine apart, all on this machine with the load; the bare application and "
    "the consumers of Channels 4 answer inside the server."
)
REDIS = ("ours-redis-sync", "ours-redis-async", "ours-redis-sync-at-least-once")
DATABASE = (
    "ours-postgresql-sync",
    "ours-postgresql-async",
    "ours-postgresql-sync-at-least-once",
    "ours-sqlite-sync",
)
IDLE_DATABASE = ("ours-postgresql-sync", "ours-mariadb-sync", "ours-sqlite-sync")
EXPIRED = tuple(f"ours-{engine}-expired" for engine, _ in EXPIRED_ENGINES)
CHANNELS4_REDIS = ("channels4-redis", "channels4-redis-pubsub")
CHANNELS4_DATABASE = ("channels4-postgresql", "channels4-sqlite")


def engine_scenarios() -> tuple[Scenario, ...]:
    """Layers whose messages leave the process: the Redis layer, then the database layer."""
    return (
        Scenario(
            name="redis-layer",
            title="Redis layer: round trips between two processes",
            explanation=ENGINE_LAYER,
            contestants=(
                "ours-redis-layer",
                "ours-redis-at-least-once-layer",
                "channels4-redis-layer",
                "channels4-redis-pubsub-layer",
            ),
            metrics=ENGINE_LAYER_METRICS,
            measure=engine_layer,
            baseline="channels4-redis-pubsub-layer",
            targets=(
                Target(contestants=("ours-redis-layer",), metric="in_flight", bound="at least", value=25_000),
            ),
        ),
        Scenario(
            name="redis-echo-1",
            title="WebSocket echo through Redis, 1 connection",
            explanation=ENGINE_ECHO,
            contestants=("bare", *REDIS),
            metrics=ENGINE_ECHO_METRICS,
            measure=echo(1),
            baseline="bare",
            targets=(Target(contestants=REDIS[:2], metric="p50", bound="at most", value=0.35),),
        ),
        Scenario(
            name="redis-echo-50",
            title="WebSocket echo through Redis, 50 connections",
            explanation=ENGINE_ECHO,
            contestants=("bare", *REDIS, "channels4-async"),
            metrics=ENGINE_ECHO_METRICS,
            measure=echo(50),
            baseline="bare",
            targets=(
                Target(
                    contestants=("ours-redis-async",),
                    metric="rate",
                    bound="at least",
                    value=0.30,
                    relative_to="bare",
                    aim=0.40,
                ),
                Target(
                    contestants=("ours-redis-sync",),
                    metric="rate",
                    bound="at least",
                    value=0.20,
                    relative_to="bare",
                    aim=0.33,
                ),
                Target(
                    contestants=("ours-redis-sync-at-least-once",),
                    metric="rate",
                    bound="at least",
                    value=0.85,
                    relative_to="ours-redis-sync",
                ),
            ),
        ),
        *(
            Scenario(
                name=f"redis-broadcast-{members}",
                title=f"Broadcast to {members:,} sockets through Redis",
                explanation="As above, through the engine; the bare application loops over its sockets.",
                contestants=("bare", "ours-redis-sync", "ours-redis-async", *CHANNELS4_REDIS),
                metrics=BROADCAST_METRICS,
                measure=broadcast(members),
                baseline="bare",
                targets=(
                    Target(
                        contestants=REDIS[:2],
                        metric="to_last",
                        bound="at most",
                        value=1.3,
                        relative_to="bare",
                    ),
                ),
                once=CHANNELS4_REDIS if members > 1000 else (),
            )
            for members in (1000, 10_000)
        ),
        Scenario(
            name="redis-idle",
            title="Idle CPU with 500 sockets, Redis layer",
            explanation="Processor time while 500 open sockets are silent, in per cent of one core.",
            contestants=("ours-redis-sync", "ours-redis-async"),
            metrics=IDLE_METRICS,
            measure=idle,
            baseline="ours-redis-sync",
            targets=(Target(contestants=REDIS[:2], metric="worker_cpu", bound="at most", value=0.5),),
        ),
        Scenario(
            name="database-layer",
            title="Database layer: round trips between two processes",
            explanation=ENGINE_LAYER,
            contestants=(
                "ours-postgresql-layer",
                "ours-postgresql-at-least-once-layer",
                "channels4-postgresql-layer",
                "ours-sqlite-layer",
                "channels4-sqlite-layer",
            ),
            metrics=ENGINE_LAYER_METRICS,
            measure=engine_layer,
            baseline="channels4-postgresql-layer",
            targets=(
                Target(
                    contestants=("ours-postgresql-layer",),
                    metric="in_flight",
                    bound="at least",
                    value=10.0,
                    relative_to="channels4-postgresql-layer",
                ),
                Target(
                    contestants=("ours-postgresql-layer",),
                    metric="pairs",
                    bound="at least",
                    value=2.5,
                    relative_to="channels4-postgresql-layer",
                ),
                Target(
                    contestants=("ours-postgresql-at-least-once-layer",),
                    metric="pairs",
                    bound="at least",
                    value=1.0,
                    relative_to="channels4-postgresql-layer",
                ),
                Target(
                    contestants=("ours-postgresql-layer",), metric="alone_p50", bound="at most", value=0.6
                ),
                Target(
                    contestants=("ours-sqlite-layer",),
                    metric="across",
                    bound="at least",
                    value=10.0,
                    relative_to="channels4-sqlite-layer",
                ),
                Target(contestants=("ours-sqlite-layer",), metric="alone_p50", bound="at most", value=1.0),
                Target(
                    contestants=("ours-sqlite-layer",), metric="in_flight", bound="at least", value=20_000
                ),
            ),
        ),
        Scenario(
            name="database-echo-50",
            title="WebSocket echo through a database, 50 connections",
            explanation=ENGINE_ECHO,
            contestants=("bare", *DATABASE),
            metrics=ENGINE_ECHO_METRICS,
            measure=echo(50),
            baseline="bare",
            targets=(
                Target(contestants=DATABASE[:2], metric="rate", bound="at least", value=10_000),
                Target(contestants=DATABASE[:2], metric="p50", bound="at most", value=4.0),
            ),
        ),
        Scenario(
            name="database-expired",
            title="A million expired messages in a database",
            explanation="Messages sent and received in one process, in batches of 1, 10 and 50, beside a million "
            "expired ones in ten thousand channels; ratios are to the same on empty tables, in turn with it. Then how "
            "long sending and receiving one message takes while another process deletes them.",
            contestants=EXPIRED,
            metrics=EXPIRED_METRICS,
            measure=expired,
            baseline="",
            targets=(
                *(
                    Target(contestants=EXPIRED[:2], metric=f"ratio_{batch}", bound="at least", value=0.9)
                    for batch in (1, 10, 50)
                ),
                Target(contestants=EXPIRED, metric="wait_worst", bound="at most", value=250.0),
            ),
        ),
        Scenario(
            name="database-broadcast-1000",
            title="Broadcast to 1,000 sockets through a database",
            explanation="As above, through the engine.",
            contestants=("ours-sync", *IDLE_DATABASE, *CHANNELS4_DATABASE),
            metrics=BROADCAST_METRICS,
            measure=broadcast(1000),
            baseline="ours-sync",
        ),
        Scenario(
            name="database-idle",
            title="Idle CPU with 500 sockets, database layer",
            explanation="Processor time while 500 open sockets are silent, in per cent of one core, and what each of "
            "server and worker asks the engine (PostgreSQL counts transactions; asking for the count is in it).",
            contestants=IDLE_DATABASE,
            metrics=(
                *IDLE_METRICS,
                Metric(name="statements", title="statements of each process", unit="/s", digits=2),
            ),
            measure=idle,
            baseline="ours-postgresql-sync",
            targets=(
                Target(contestants=IDLE_DATABASE, metric="server_cpu", bound="at most", value=1.0),
                Target(contestants=IDLE_DATABASE, metric="worker_cpu", bound="at most", value=1.0),
                Target(contestants=IDLE_DATABASE, metric="statements", bound="at most", value=2.0),
            ),
        ),
    )


IDLE_METRICS = (
    Metric(name="server_cpu", title="server CPU", unit="%", digits=2),
    Metric(name="worker_cpu", title="worker CPU", unit="%", digits=2),
    Metric(name="engine_cpu", title="engine CPU", unit="%", digits=2),
)

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="layer",
            title="Memory layer: send and receive",
            explanation="One message of 100 characters of text and three more keys, sent to a normal channel and taken "
            "off it again, one at a time in one thread. Ours checks every value and copies.",
            contestants=("ours-layer", "ours-layer-async", "channels4-layer"),
            metrics=(Metric(name="pairs", title="pairs", unit="/s"),),
            measure=layer,
            baseline="channels4-layer",
            targets=(
                Target(contestants=("ours-layer",), metric="pairs", bound="at least", value=200_000),
                Target(
                    contestants=("ours-layer",),
                    metric="pairs",
                    bound="at least",
                    value=1.28,
                    relative_to="channels4-layer",
                ),
            ),
        ),
        Scenario(
            name="echo-1",
            title="WebSocket echo, 1 connection",
            explanation="Text frames of 100 bytes. The client sends the next frame when the echo of the last is there; "
            "then, at half of the rate it reached, on schedule whatever comes back.",
            contestants=(*WEBSOCKET, "channels4-ablation"),
            metrics=ECHO_METRICS,
            measure=echo(1),
            baseline="bare",
            targets=(Target(contestants=OURS, metric="p50", bound="at most", value=0.3),),
        ),
        Scenario(
            name="echo-50",
            title="WebSocket echo, 50 connections",
            explanation="The same with 50 connections, each with one frame under way.",
            contestants=(*WEBSOCKET, "channels4-ablation"),
            metrics=ECHO_METRICS,
            measure=echo(50),
            baseline="bare",
            targets=(
                Target(
                    contestants=OURS,
                    metric="rate",
                    bound="at least",
                    value=0.55,
                    relative_to="bare",
                    aim=0.70,
                ),
            ),
        ),
        Scenario(
            name="broadcast-1000",
            title="Broadcast to 1,000 sockets",
            explanation="One socket sends a text frame of 100 bytes, the application passes it to a group of 1,000; "
            "milliseconds until the last of them has it. The bare application loops over its sockets.",
            contestants=WEBSOCKET,
            metrics=BROADCAST_METRICS,
            measure=broadcast(1000),
            baseline="bare",
            targets=(
                Target(contestants=OURS, metric="to_last", bound="at most", value=1.25, relative_to="bare"),
            ),
        ),
        Scenario(
            name="broadcast-10000",
            title="Broadcast to 10,000 sockets",
            explanation="The same with 10,000 sockets. The time of Channels 4 grows with the square of the group, "
            "so one round has to do.",
            contestants=("bare", "ours-sync", "ours-async", "channels4-async"),
            metrics=BROADCAST_METRICS,
            measure=broadcast(10_000),
            baseline="bare",
            targets=(
                Target(contestants=OURS, metric="to_last", bound="at most", value=1.3, relative_to="bare"),
            ),
            once=("channels4-async",),
        ),
        Scenario(
            name="connects",
            title="Connection set-up",
            explanation="TCP connect and WebSocket handshake up to the server's 101, 32 at a time; sockets stay open.",
            contestants=WEBSOCKET,
            metrics=(Metric(name="rate", title="connects", unit="/s"), *LATENCIES, CLIENT_CPU),
            measure=connects,
            baseline="bare",
            targets=(
                Target(contestants=OURS, metric="rate", bound="at least", value=3000),
                Target(contestants=OURS, metric="rate", bound="at least", value=0.67, relative_to="bare"),
            ),
        ),
        Scenario(
            name="idle",
            title="Idle CPU with 500 sockets",
            explanation="Processor time of the server process while 500 open sockets are silent, in per cent of one "
            "core. The server's own keepalive pings are in it.",
            contestants=WEBSOCKET,
            metrics=(Metric(name="server_cpu", title="server CPU", unit="%", digits=2),),
            measure=idle,
            baseline="bare",
            targets=(Target(contestants=OURS, metric="server_cpu", bound="at most", value=1.0),),
        ),
        Scenario(
            name="memory",
            title="Memory of 1,000 idle sockets",
            explanation="Growth of the server's resident set from none to 1,000 open sockets, after it has been warmed "
            "up with 20.",
            contestants=WEBSOCKET,
            metrics=(
                Metric(name="per_thousand", title="per 1,000 sockets", unit="MiB", digits=1),
                Metric(name="before", title="without sockets", unit="MiB", digits=1),
            ),
            measure=memory,
            baseline="bare",
            targets=(Target(contestants=OURS, metric="per_thousand", bound="at most", value=20.0),),
        ),
        Scenario(
            name="http",
            title="HTTP hello world",
            explanation="GET / on 50 kept connections. Ours through the layer means interface, layer, worker thread, "
            "router, Django's URL resolver and view, and the way back.",
            contestants=("bare", "ours-sync", "ours-in-process", "django-asgi", "django-asgi-async"),
            metrics=(Metric(name="rate", title="requests", unit="/s"), *LATENCIES, COST, CLIENT_CPU),
            measure=http,
            baseline="django-asgi",
            targets=(
                Target(
                    contestants=("ours-sync",),
                    metric="rate",
                    bound="at least",
                    value=3.0,
                    relative_to="django-asgi",
                ),
            ),
        ),
        *engine_scenarios(),
    )
}
