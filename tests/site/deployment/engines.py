"""The engines that the proofs run on: how each is started, stopped, killed and stalled, and the CONFIG for it."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Server(Protocol):
    """The process behind a layer. Each method returns when it has happened."""

    def start(self) -> None:
        """Start on what was there when it ended; returns once it answers."""

    def stop(self) -> None:
        """End it as a service manager does; what it keeps, it keeps."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def stall(self) -> None:
        """Stop it in its tracks."""

    def resume(self) -> None:
        """Let it go on."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A layer and what is behind it."""

    name: str
    backend: str
    """As in CHANNEL_LAYERS."""
    config: Mapping[str, Any]
    server: Server | None = None
    """None where there is no process to restart."""
    kept: Callable[[], Mapping[str, int]]
    """How much the engine keeps for the layer: of each kind of thing, what is not about a living process."""
    databases: Mapping[str, Any] = field(default_factory=dict)
    apps: tuple[str, ...] = ()
    source: str | None = None
    """Where the layer's own code is, in a checkout."""
    pace: float = 1.0
    """How much slower than Redis it may be driven."""


def sqlite_sample(folder: Path) -> Engine:
    """The sample layer of the plugin authors' guide: small, and without a server."""
    path = folder / "layer.sqlite3"

    def kept() -> dict[str, int]:
        with closing(sqlite3.connect(path)) as connection:
            return {
                table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("message", "member", "dead")
            }

    return Engine(
        name="sqlite-sample",
        backend="sqlite_layer.layer.SqliteBackend",
        config={"path": str(path)},
        kept=kept,
        pace=5.0,
    )
