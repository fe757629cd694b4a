"""``runworker``: workers in processes of their own."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER, channel_layers
from channels_core.cli.host import at_least_one
from channels_core.exceptions import ChannelsError
from channels_core.worker import Supervisor, Worker, run_until_signalled
from channels_django.reloading import run_with_reloader
from channels_django.signals import worker_process_ready, worker_ready
from channels_django.workers import make_worker

_CHILD_VARIABLE = "CHANNELS_WORKER_CHILD"


class Command(BaseCommand):
    """Runs the consumers of one layer until SIGTERM or SIGINT, which finish what is in hand."""

    help = "Runs workers: they take messages off a channel layer and run the consumers for them."

    _worker: Worker | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        """Which layer, how many, which channels."""
        parser.add_argument(
            "--layer",
            default=DEFAULT_CHANNEL_LAYER,
            help="Alias of the layer to serve (default: default).",
        )
        parser.add_argument(
            "--threads",
            type=at_least_one,
            help="Threads of each process (default: CHANNELS['THREADS'], else 1).",
        )
        parser.add_argument(
            "--processes",
            type=at_least_one,
            default=1,
            help="Processes; with more than one, those that die are replaced (default: 1).",
        )
        parser.add_argument(
            "--only-channels",
            action="append",
            default=[],
            metavar="GLOB",
            help="Serve only the channels that match; may be given several times.",
        )
        parser.add_argument(
            "--exclude-channels",
            action="append",
            default=[],
            metavar="GLOB",
            help="Do not serve the channels that match; may be given several times.",
        )
        parser.add_argument(
            "--autoreload",
            action="store_true",
            help="Start anew when a Python file changes. For development.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Refuse what cannot work, then run until signalled."""
        self._check_layer(options["layer"])
        if options["processes"] > 1 and options["autoreload"]:
            raise CommandError("--autoreload runs one process: leave out --processes, or --autoreload.")
        if options["processes"] > 1 and _CHILD_VARIABLE not in os.environ:
            self._supervise(options["processes"])
        elif options["autoreload"]:
            run_with_reloader(partial(self._run, options, is_main=False), self._stop)
        else:
            self._run(options, is_main=True)

    def _check_layer(self, alias: str) -> None:
        try:
            layer = channel_layers[alias]
        except (ChannelsError, KeyError) as exc:
            raise CommandError(str(exc.args[0])) from exc
        if layer.backend.local_only:
            raise CommandError(
                f"The channel layer {alias!r} ({type(layer.backend).__name__}) keeps messages inside one process, so"
                " a separate worker would see none. Use runserver, which runs workers inside, or name a layer that"
                " reaches across processes as its BACKEND in CHANNEL_LAYERS."
            )

    def _run(self, options: dict[str, Any], *, is_main: bool) -> None:
        try:
            self._worker = make_worker(
                channel_layers[options["layer"]],
                threads=options["threads"],
                only_channels=options["only_channels"],
                exclude_channels=options["exclude_channels"],
            )
        except ChannelsError as exc:
            raise CommandError(str(exc)) from exc
        worker_process_ready.send(sender=type(self))
        if options["verbosity"]:
            worker_ready.connect(self._announce, sender=self._worker, weak=False)
        has_ended = run_until_signalled(self._worker) if is_main else self._worker.run()
        if is_main and not has_ended:
            sys.exit(1)  # the log says what was cut short

    def _announce(self, *, sender: Worker, **_: Any) -> None:
        self.stdout.write(f"Worker of layer {sender.layer.alias!r} listens on: {', '.join(sender.channels)}")
        self.stdout.flush()

    def _supervise(self, processes: int) -> None:
        supervisor = Supervisor(
            [sys.executable, *sys.orig_argv[1:]],
            processes,
            environment={**os.environ, _CHILD_VARIABLE: "1"},
        )
        sys.exit(supervisor.run())

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.request_stop()
