"""Ports for servers of tests."""

import random
import socket

__all__ = ["free_port"]

_FIRST, _LAST = 10_240, 32_000
"""Below what systems give to outgoing connections: of those nobody takes the port before the server does."""
_given: set[int] = set()


def free_port() -> int:
    """A TCP port of the loopback that nobody has, and that this process was not given before."""
    for _ in range(1000):
        port = random.randint(_FIRST, _LAST)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError(f"no port from {_FIRST} to {_LAST} is free")
