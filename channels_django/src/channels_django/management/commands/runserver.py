"""``runserver``: Django's development server, with WebSockets and the channel layer."""

from __future__ import annotations

import errno
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands.runserver import Command as DjangoCommand
from django.utils import autoreload
from django.utils.version import get_version

from channels_core.exceptions import ChannelsError
from channels_core.interface import make_interface
from channels_core.worker import Worker
from channels_django import conf
from channels_django.development import DevelopmentServer, bind
from channels_django.reloading import run_with_reloader
from channels_django.request_log import RequestLog
from channels_django.workers import make_worker

_THREADS = 4
_HTTP_TIMEOUT = 60.0


class Command(DjangoCommand):
    """Serves HTTP and WebSockets in one process, worker threads included."""

    help = "Starts a development server for HTTP and WebSockets, with worker threads inside."

    # set by Django's handle(), from addrport and --ipv6
    addr: str
    port: str
    use_ipv6: bool
    _raw_ipv6: bool

    _server: DevelopmentServer | None = None
    _is_reloading = False

    def add_arguments(self, parser: CommandParser) -> None:
        """Django's own, and those about channels and static files."""
        super().add_arguments(parser)
        parser.add_argument(
            "--noworker",
            action="store_false",
            dest="run_worker",
            help="Run no worker threads: workers are started apart, with runworker.",
        )
        parser.add_argument(
            "--noasgi",
            action="store_false",
            dest="use_asgi",
            help="Run Django's own development server, without WebSockets.",
        )
        parser.add_argument(
            "--http_timeout",
            type=_seconds,
            metavar="SECONDS",
            help=f"Answer 503 to a request after so many seconds (default: {_HTTP_TIMEOUT:g}).",
        )
        parser.add_argument(
            "--websocket_handshake_timeout",
            type=_seconds,
            metavar="SECONDS",
            help="Refuse a WebSocket that no consumer has accepted after so many seconds (default: 5).",
        )
        if apps.is_installed("django.contrib.staticfiles"):
            parser.add_argument(
                "--nostatic",
                action="store_false",
                dest="use_static_handler",
                help="Do not serve static files at STATIC_URL.",
            )
            parser.add_argument(
                "--insecure",
                action="store_true",
                dest="insecure_serving",
                help="Serve static files even if DEBUG is False.",
            )

    def run(self, **options: Any) -> None:
        """Run, with or without the reloader."""
        if not options["use_asgi"]:
            super().run(**options)
        elif options["use_reloader"]:
            self._is_reloading = True
            run_with_reloader(partial(self.inner_run, **options), self._stop)
        else:
            self.inner_run(**options)

    def get_handler(self, *args: Any, **options: Any) -> Any:
        """What Django's own server runs, with static files where wanted."""
        handler = super().get_handler(*args, **options)
        if self._is_static_served(options):
            from django.contrib.staticfiles.handlers import StaticFilesHandler

            return StaticFilesHandler(handler)
        return handler

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Check the project, say where the server is, serve until stopped."""
        if not options["use_asgi"]:
            super().inner_run(*args, **options)
            return
        if not conf.has_layer():
            alias = conf.option_value("LAYER")
            text = f"CHANNEL_LAYERS has no {alias!r}, so this is Django's own server, without WebSockets."
            self.stderr.write(self.style.WARNING(text))
            super().inner_run(*args, **options)
            return
        autoreload.raise_last_exception()
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        autoreload.raise_last_exception()
        self._serve(options)

    def _serve(self, options: dict[str, Any]) -> None:
        try:
            listener = bind(self.addr, int(self.port), use_ipv6=self.use_ipv6)
        except OSError as exc:
            self._fail(_describe_bind_error(exc, f"{self.addr}:{self.port}"))
            return
        try:
            self._server = self._make_server(listener, options)
        except ChannelsError as exc:
            listener.close()
            self._fail(str(exc))
            return
        self._server.run(partial(self._announce, listener.getsockname()[1], options))
        if options.get("shutdown_message"):
            self.stdout.write(options["shutdown_message"])

    def _make_server(self, listener: Any, options: dict[str, Any]) -> DevelopmentServer:
        changes: dict[str, Any] = {}
        if options["http_timeout"] is not None:
            changes["http_timeout"] = options["http_timeout"]
        elif "HTTP_TIMEOUT" not in getattr(settings, "CHANNELS", {}):
            changes["http_timeout"] = _HTTP_TIMEOUT
        if options["websocket_handshake_timeout"] is not None:
            changes["websocket_handshake_timeout"] = options["websocket_handshake_timeout"]
        is_static_served = self._is_static_served(options)
        http: Any = None  # Django types its handlers as taking a dict, not any mapping
        if conf.http_mode() == "in-process":
            from django.core.handlers.asgi import ASGIHandler

            http = ASGIHandler()
            if is_static_served:
                from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

                http = ASGIStaticFilesHandler(http)
        application = make_interface(http=http, **changes)
        make: Callable[[], Worker] | None = None
        if options["run_worker"]:
            threads = None if "THREADS" in getattr(settings, "CHANNELS", {}) else _THREADS
            make = partial(
                make_worker,
                application.layer,
                threads=threads if options["use_threading"] else 1,
                is_static_served=is_static_served,
            )
        return DevelopmentServer(RequestLog(application), listener, make)

    def _is_static_served(self, options: dict[str, Any]) -> bool:
        return bool(
            apps.is_installed("django.contrib.staticfiles")
            and options["use_static_handler"]
            and (settings.DEBUG or options["insecure_serving"])
        )

    def _announce(self, port: int, options: dict[str, Any]) -> None:
        address = f"[{self.addr}]" if self._raw_ipv6 else self.addr
        quit_command = "CTRL-BREAK" if sys.platform == "win32" else "CONTROL-C"
        workers = "with worker threads inside" if options["run_worker"] else "without workers (--noworker)"
        self.stdout.write(
            f"{datetime.now().astimezone():%B %d, %Y - %X}\n"
            f"Django version {get_version()}, using settings {settings.SETTINGS_MODULE!r}\n"
            f"Starting the channels development server at http://{address}:{port}/, {workers}\n"
            f"Quit the server with {quit_command}."
        )
        self.stdout.flush()

    def _fail(self, text: str) -> None:
        if not self._is_reloading:
            raise CommandError(text)
        self.stderr.write(f"Error: {text}")
        # An exception would only end this thread; the reloader waits for the next change in another.
        os._exit(1)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _describe_bind_error(exc: OSError, where: str) -> str:
    reasons = {
        errno.EACCES: "you don't have permission to use that port",
        errno.EADDRINUSE: "that port is already in use",
        errno.EADDRNOTAVAIL: "that address is not one of this machine's",
    }
    reason = reasons.get(exc.errno or 0, str(exc.strerror or exc))
    return f"Cannot listen on {where}: {reason}. Choose another, as in: runserver 127.0.0.1:8001"
