"""Serve one contestant: the same server, event loop and protocol implementations for every one of them.

Runs in the contestant's own environment, so it imports nothing but uvicorn and the standard library.  Prints one line
of JSON when the server answers; what it says of loop and protocols is read from the running objects.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import json
import platform
import resource
import socket
import sys
from pathlib import Path

import uvicorn

PACKAGES = ("uvicorn", "uvloop", "httptools", "websockets", "django", "asgiref", "channels", "channels-core")


def installed_packages() -> dict[str, str]:
    """Name and version of each package that matters here and is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


class AnnouncingServer(uvicorn.Server):
    """A server that tells its parent process where it listens and what it is made of."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not sockets or not self.started:
            return
        loop = type(asyncio.get_running_loop())
        http, websocket = self.config.http_protocol_class, self.config.ws_protocol_class
        announcement = {
            "port": sockets[0].getsockname()[1],
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "server": f"uvicorn {uvicorn.__version__}",
            "loop": f"{loop.__module__}.{loop.__qualname__}",
            "http": http.__qualname__,
            "websocket": websocket.__qualname__ if websocket else "none",
            "packages": installed_packages(),
        }
        sys.stdout.write(json.dumps(announcement) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Listen on a free loopback port and serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("app", help="module:attribute inside the folder")
    options = parser.parse_args()
    sys.path[0] = str(options.folder.resolve())
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        options.app,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        lifespan="auto",
        access_log=False,
        log_level="warning",
        backlog=4096,
        timeout_graceful_shutdown=2,
    )
    config.load()
    gc.collect()
    AnnouncingServer(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
