"""`manage.py demo`: make the database ready, print the address, serve."""

import errno
import socket
from argparse import ArgumentParser
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

HOST = "127.0.0.1"
FALLBACK_PORT = 8765


class Command(BaseCommand):
    """Serve the demo on this machine until Ctrl-C."""

    help = "Migrate the demo's database, print the address and serve the chat until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add `--port`."""
        parser.add_argument("--port", type=int, default=8000, help="port to serve on (default: 8000)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, say where the chat is, and run the development server."""
        port: int = options["port"]
        require_free(port)
        call_command("migrate", verbosity=0, interactive=False)
        self.stdout.write(
            f"\n  The chat is at  http://{HOST}:{port}/\n"
            f"  Open http://{HOST}:{port}/rooms/lobby/ in two windows and say hello. Ctrl-C stops it.\n",
            self.style.SUCCESS,
        )
        # Whoever started this may read a pipe: the address must not wait in a buffer.
        self.stdout.flush()
        # Without the reloader: one process, so Ctrl-C and SIGTERM stop all of it. `runserver` itself reloads.
        call_command("runserver", f"{HOST}:{port}", use_reloader=False)


def require_free(port: int) -> None:
    """Raise CommandError where the demo cannot listen on the port."""
    if not 1 <= port <= 65535:
        raise CommandError(
            f"Port {port} does not exist: choose one from 1 to 65535, for example --port {FALLBACK_PORT}."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            problem = (
                "in use by another program" if exc.errno == errno.EADDRINUSE else f"refused: {exc.strerror}"
            )
            raise CommandError(
                f"The demo cannot listen on {HOST}:{port}, the port is {problem}."
                f" Choose another one, for example --port {FALLBACK_PORT}."
            ) from exc
