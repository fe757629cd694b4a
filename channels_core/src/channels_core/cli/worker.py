"""``channels worker``: run the consumers of a layer in this process, or in several."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace

from channels_core.cli.host import Host, add_layer_option, at_least_one, layer_of
from channels_core.exceptions import ConfigurationError
from channels_core.worker import Supervisor, Worker, run_until_signalled

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the ``channels`` parser."""
    parser = commands.add_parser("worker", help="run consumers until SIGTERM or SIGINT")
    add_layer_option(parser)
    parser.add_argument("--threads", type=at_least_one, metavar="N", help="threads of each process")
    parser.add_argument(
        "--processes",
        type=at_least_one,
        default=1,
        metavar="N",
        help="fresh interpreters, replaced when they die",
    )
    parser.add_argument(
        "--only-channels", action="append", metavar="GLOB", help="read only these channels; may be repeated"
    )
    parser.add_argument(
        "--exclude-channels", action="append", metavar="GLOB", help="do not read these; may be repeated"
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings and errors only")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, host: Host) -> int:
    """Run until signalled; 0 after a graceful stop, 1 where time was up before the consumers in hand had ended."""
    if not logging.getLogger().handlers:
        level = logging.WARNING if arguments.quiet else logging.INFO
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    layer = layer_of(arguments, host)
    backend = type(layer.backend)
    if layer.backend.local_only:
        raise ConfigurationError(
            f"Layer {layer.alias!r} keeps its messages in the memory of one process ({backend.__name__}), so a separate"
            " worker would never see any: choose a BACKEND that is shared between processes, or run the worker inside"
            " the server's process, as runserver does."
        )
    options = host.layers.config.worker
    if arguments.threads is not None:
        options = replace(options, threads=arguments.threads)
    if arguments.processes > 1:
        return Supervisor(
            [*host.command, *_child_arguments(arguments)],
            arguments.processes,
            stop_timeout=options.stop_timeout + 5,
        ).run()
    worker = Worker(
        layer,
        config=options,
        events=host.events,
        middleware=host.layers.make_middleware(),
        only_channels=arguments.only_channels,
        exclude_channels=arguments.exclude_channels,
    )
    return 0 if run_until_signalled(worker) else 1


def _child_arguments(arguments: argparse.Namespace) -> list[str]:
    """The same sub-command for one process."""
    options = ["worker", f"--layer={arguments.layer}"]
    if arguments.threads is not None:
        options.append(f"--threads={arguments.threads}")
    options += [f"--only-channels={glob}" for glob in arguments.only_channels or ()]
    options += [f"--exclude-channels={glob}" for glob in arguments.exclude_channels or ()]
    if arguments.quiet:
        options.append("--quiet")
    return options
