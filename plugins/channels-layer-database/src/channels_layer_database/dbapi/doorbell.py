"""How a sender wakes a reader of another process on the same machine: a datagram to a socket beside the database.

The rows are the truth. A bell only says "look": a lost one costs a reader one poll interval, never a message. Each
waiting reader rests on a bell of its own, in a directory that all processes of the layer share::

    b/<bell>        the socket that the reader rests on
    b/<bell>.idle   one byte, shared memory: 1 while the reader rests, so that nobody rings where nobody listens
    k/=<key>/<bell> an empty file: the reader of this bell reads this key

A sender that has committed looks who reads the key, which one ``stat()`` says as long as nobody came or went, picks a
resting reader at random, claims its byte and rings. So one message wakes one reader. A reader sets its byte before it
looks into the tables for the last time and goes to sleep: whoever commits later sees the byte.

Where there is no such directory (Windows, another user's, a path too long for a socket) bells ring inside the process
alone, and readers poll for what other processes sent.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import random
import select
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from channels_core.names import new_id, process_of

__all__ = ["Bell", "Doorbell", "key_of"]

logger = logging.getLogger("channels.layer.database")

_LONGEST_PATH: Final = 90
"""Bytes of a directory's path, so that a socket in it has a name that every platform takes (104 on macOS)."""
_COARSE: Final = 50_000_000
"""Nanoseconds for which a directory's time may not tell two changes apart."""
_REMEMBERED: Final = 4096
_POOLED: Final = 64


def key_of(name: str) -> str:
    """What a bell is hung at for a channel or prefix: all channels ``x?...`` share ``x?``, all prefixes of a process
    share ``PROCESS!``."""
    mark = name.find("?")
    if mark > 0:
        return name[: mark + 1]
    if name.endswith("!"):
        owner = process_of(name)
        return f"{owner}!" if owner else name
    return name


class Bell:
    """What one reader rests on at a time: a thread, or a task of the loop it was made for. ``ring`` may be called from
    any thread and from signal handlers."""

    __slots__ = ("_future", "_inner", "_is_rung", "flag", "keys", "loop", "name", "path", "socket", "thread")

    def __init__(
        self,
        keys: frozenset[str],
        loop: asyncio.AbstractEventLoop | None,
        path: Path | None = None,
        flag: mmap.mmap | bytearray | None = None,
    ) -> None:
        self.keys = keys
        self.loop = loop
        self.path = path
        self.name = "" if path is None else path.name
        self.flag: mmap.mmap | bytearray = bytearray(1) if flag is None else flag
        self.thread = threading.get_ident()
        self._future: asyncio.Future[None] | None = None
        self._is_rung = False
        self._inner: socket.socket | None = None
        if path is None:
            if loop is None:
                self.socket, self._inner = socket.socketpair()
                self.socket.setblocking(False)
                self._inner.setblocking(False)
            return
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            self.socket.bind(str(path))
            path.chmod(0o600)  # the directory keeps others out meanwhile; a umask would be every thread's
        except OSError:
            self.socket.close()
            raise
        if loop is not None:
            loop.add_reader(self.socket, self._heard)

    def arm(self) -> None:
        """Say that the reader is about to rest. It has to look once more, then rest."""
        self.flag[0] = 1

    def disarm(self) -> None:
        """The reader is up."""
        self.flag[0] = 0

    def ring(self) -> None:
        """End the rest, or the next one."""
        if self.path is None and self.loop is not None:
            with suppress(RuntimeError):  # its loop is closed: nobody rests there
                self.loop.call_soon_threadsafe(self._wake)
            return
        with suppress(OSError):  # full: it rings already; closed: nobody rests there
            if self._inner is not None:
                self._inner.send(b"\0")
            else:
                self.socket.sendto(b"\0", str(self.path))

    def rest(self, seconds: float) -> bool:
        """Sleep in a thread until rung, at most ``seconds``. Whether it was rung."""
        if sys.platform == "win32":
            found = select.select([self.socket], [], [], max(seconds, 0.0))[0]
        else:
            poll = select.poll()
            poll.register(self.socket.fileno(), select.POLLIN)
            found = poll.poll(max(0.0, seconds * 1000.0 + 0.5))
        if found:
            self._drain()
        return bool(found)

    async def arest(self, seconds: float) -> bool:
        """Sleep in the bell's loop until rung, at most ``seconds``. Whether it was rung."""
        assert self.loop is not None
        if not self._is_rung:
            self._future = self.loop.create_future()
            timer = self.loop.call_later(max(seconds, 0.0), self._stop_resting)
            try:
                await self._future
            finally:
                timer.cancel()
                self._future = None
        is_rung, self._is_rung = self._is_rung, False
        return is_rung

    def _heard(self) -> None:
        self._drain()
        self._wake()

    def _drain(self) -> None:
        with suppress(BlockingIOError, InterruptedError):
            while self.socket.recv(16):
                pass

    def _wake(self) -> None:
        self._is_rung = True
        self._stop_resting()

    def _stop_resting(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        """Free what the system keeps for it. In the loop's thread, where it has one that runs."""
        if self.path is None and self.loop is not None:
            return
        if self.loop is not None and not self.loop.is_closed():
            with suppress(RuntimeError, ValueError):
                self.loop.remove_reader(self.socket)
        self.socket.close()
        if self._inner is not None:
            self._inner.close()


class _Reader:
    """What a sender keeps of somebody's bell."""

    __slots__ = ("flag", "path")

    def __init__(self, path: str, flag: mmap.mmap) -> None:
        self.path = path
        self.flag = flag


class Doorbell:
    """The bells of one layer in this process, and the directory through which others ring them. Thread-safe.

    ``directory`` is tried first, and a short one below the system's temporary directory where its path is too long;
    ``None`` rings inside the process alone.
    """

    def __init__(self, directory: Path | None) -> None:
        self._wanted = directory
        self.start()

    def start(self) -> None:
        """Begin anew; also in a forked child, which leaves the parent's bells alone."""
        self._lock = threading.Lock()
        self._directory: Path | None = None
        self._is_open = False
        self._is_closed = False
        self._free: dict[tuple[frozenset[str], int], list[Bell]] = {}
        self._bells: set[Bell] = set()
        self._resting: set[Bell] = set()
        self._listed: dict[str, tuple[int, bool, list[str]]] = {}
        self._paths: dict[str, str] = {}
        self._readers: dict[str, _Reader] = {}
        self._sender: socket.socket | None = None
        self._owner = os.getpid()

    def forget(self) -> None:
        """In a forked child: close the parent's descriptors, touch none of its files."""
        for bell in tuple(self._bells):
            if bell.path is not None or bell.loop is None:
                bell.socket.close()
        if self._sender is not None:
            self._sender.close()
        self.start()

    @property
    def reaches_others(self) -> bool:
        """Whether bells of other processes can be rung."""
        self._open()
        return self._directory is not None

    @property
    def directory(self) -> Path | None:
        """Where the bells hang; ``None`` where bells ring inside the process alone."""
        self._open()
        return self._directory

    def _open(self) -> None:
        if self._is_open:
            return
        with self._lock:
            if not self._is_open:
                self._directory = _private_directory(self._wanted)
                if self._directory is not None:
                    self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._sender.setblocking(False)
                self._is_open = True
                if self._directory is not None:
                    sweep(self._directory)

    # Readers.

    def borrow(self, keys: frozenset[str], loop: asyncio.AbstractEventLoop | None = None) -> Bell:
        """A bell that rings for ``keys``, for one reader to rest on until :meth:`give_back`."""
        self._open()
        pool = keys, id(loop) if loop is not None else 0
        while True:
            with self._lock:
                free = self._free.get(pool)
                bell = free.pop() if free else None
            if bell is None:
                bell = self._make(keys, loop)
            elif bell.loop is not loop or (loop is not None and loop.is_closed()):
                self._discard(bell)
                continue
            self._resting.add(bell)
            return bell

    def give_back(self, bell: Bell) -> None:
        """The reader rests no more."""
        bell.disarm()
        self._resting.discard(bell)
        if self._is_closed:
            self._discard(bell)
            return
        pool = bell.keys, id(bell.loop) if bell.loop is not None else 0
        with self._lock:
            free = self._free.setdefault(pool, [])
            free.append(bell)
            oldest = self._oldest() if len(self._bells) > _POOLED else None
        if oldest is not None:
            self._discard(oldest)

    def _oldest(self) -> Bell | None:
        for pool in tuple(self._free):
            bells = self._free[pool]
            bell = bells.pop(0) if bells else None
            if not bells:
                del self._free[pool]
            if bell is not None:
                return bell
        return None

    def _make(self, keys: frozenset[str], loop: asyncio.AbstractEventLoop | None) -> Bell:
        directory = self._directory
        if directory is not None:
            try:
                bell = self._hang(directory, keys, loop)
            except (OSError, NotImplementedError) as error:
                logger.warning(
                    "A doorbell could not be made in %s (%s): a reader polls for messages.", directory, error
                )
            else:
                self._bells.add(bell)
                return bell
        bell = Bell(keys, loop)
        self._bells.add(bell)
        return bell

    def _hang(self, directory: Path, keys: frozenset[str], loop: asyncio.AbstractEventLoop | None) -> Bell:
        name = new_id()[:12]
        path = directory / "b" / name
        flag = _shared_byte(f"{path}.idle", make=True)
        bell = Bell(keys, loop, path, flag)
        for key in keys:
            folder = directory / "k" / f"={key}"
            for _ in range(3):
                folder.mkdir(mode=0o700, exist_ok=True)
                with suppress(FileNotFoundError):  # swept away just now
                    (folder / name).touch(mode=0o600)
                    break
        return bell

    def _discard(self, bell: Bell) -> None:
        self._bells.discard(bell)
        bell.close()
        if bell.path is not None and self._directory is not None:
            _remove(self._directory, bell.name, bell.keys)

    def wake(self) -> None:
        """End every rest in this process. From any thread, and from signal handlers."""
        for bell in tuple(self._resting):
            bell.ring()

    # Senders.

    def ring(self, keys: Mapping[str, int]) -> None:
        """Wake, for each key, as many resting readers as it has messages for. After the commit."""
        if self._is_closed:
            return
        self._open()
        directory = self._directory
        if directory is None:
            self._ring_here(keys)
            return
        for key, count in keys.items():
            self._ring_key(directory, key, count)

    def _ring_here(self, keys: Mapping[str, int]) -> None:
        for key, count in keys.items():
            left = count
            for bell in tuple(self._resting):
                if left and key in bell.keys and bell.flag[0]:
                    bell.flag[0] = 0
                    bell.ring()
                    left -= 1

    def _ring_key(self, directory: Path, key: str, count: int) -> None:
        names = self._names(directory, key)
        if not names:
            return
        start = random.randrange(len(names)) if len(names) > 1 else 0
        for index in range(len(names)):
            name = names[(start + index) % len(names)]
            reader = self._readers.get(name) or self._look_up(directory, key, name)
            if reader is None or not reader.flag[0]:
                continue
            reader.flag[0] = 0
            try:
                assert self._sender is not None
                self._sender.sendto(b"\0", reader.path)
            except BlockingIOError:
                pass  # it has been rung often enough
            except OSError:
                self._readers.pop(name, None)
                _remove(directory, name, (key,))
                continue
            count -= 1
            if count <= 0:
                return

    def _names(self, directory: Path, key: str) -> list[str]:
        path = self._paths.get(key)
        if path is None:
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
                self._listed.clear()
            path = self._paths[key] = f"{directory}/k/={key}"
        try:
            changed = os.stat(path).st_mtime_ns  # noqa: PTH116 - on the way of every message, at half the cost
        except OSError:
            return []
        listed = self._listed.get(key)
        if listed is not None and listed[0] == changed and listed[1]:
            return listed[2]
        now = time.time_ns()
        try:
            names = os.listdir(path)  # noqa: PTH208 - as above
        except OSError:
            return []
        self._listed[key] = changed, now - changed > _COARSE, names
        return names

    def _look_up(self, directory: Path, key: str, name: str) -> _Reader | None:
        path = f"{directory}/b/{name}"
        try:
            flag = _shared_byte(f"{path}.idle")
        except (OSError, ValueError):
            _remove(directory, name, (key,))
            return None
        if len(self._readers) >= _REMEMBERED:
            self._readers.clear()
        reader = self._readers[name] = _Reader(path, flag)
        return reader

    def close(self) -> None:
        """Take down this process's bells."""
        if os.getpid() != self._owner:
            return
        self._is_closed = True
        self.wake()
        for bell in tuple(self._bells):
            loop = bell.loop
            if bell in self._resting and (loop is None or not loop.is_closed()):
                continue  # its reader is waking up, and takes it down
            if loop is not None and loop.is_running() and bell.thread != threading.get_ident():
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._discard, bell)
            else:
                self._discard(bell)
        if self._sender is not None:
            self._sender.close()
        with self._lock:
            self._free.clear()
            self._listed.clear()
            self._readers.clear()


def _shared_byte(path: str, *, make: bool = False) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if make else 0), 0o600)
    try:
        if make:
            os.write(descriptor, b"\0")
        return mmap.mmap(descriptor, 1)
    finally:
        os.close(descriptor)


def _remove(directory: Path, name: str, keys: Iterable[str]) -> None:
    gone: list[Callable[[], None]] = [
        (directory / "b" / name).unlink,
        (directory / "b" / f"{name}.idle").unlink,
    ]
    gone += [(directory / "k" / f"={key}" / name).unlink for key in keys]
    for unlink in gone:
        with suppress(OSError):
            unlink()


def sweep(directory: Path) -> int:
    """Remove what processes left behind that were killed; returns how many bells that were."""
    dead = set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            names = os.listdir(directory / "b")  # noqa: PTH208 - names are all that is needed
        except OSError:
            return 0
        for name in names:
            if name.endswith(".idle"):
                continue
            try:
                probe.connect(str(directory / "b" / name))
            except ConnectionRefusedError:
                dead.add(name)
            except OSError:
                continue
    for name in dead:
        _remove(directory, name, ())
    living = {name for name in names if name not in dead}
    with suppress(OSError):
        for folder in (directory / "k").iterdir():
            for marker in os.listdir(folder):  # noqa: PTH208 - as above
                if marker not in living and not (directory / "b" / marker).exists():
                    with suppress(OSError):
                        (folder / marker).unlink()
            with suppress(OSError):
                folder.rmdir()  # only where empty
    return len(dead)


def _private_directory(wanted: Path | None) -> Path | None:
    """The directory, made if need be; ``None`` where nobody can be reached through it."""
    if wanted is None or not hasattr(socket, "AF_UNIX") or sys.platform == "win32":
        return None
    if len(os.fsencode(wanted)) > _LONGEST_PATH:
        wanted = short_directory(str(wanted))
    try:
        for folder in (wanted, wanted / "b", wanted / "k"):
            folder.mkdir(mode=0o700, parents=folder is wanted, exist_ok=True)
        found = wanted.lstat()
    except OSError as error:
        logger.warning("Readers poll for messages, since there can be no doorbell in %s: %s.", wanted, error)
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        logger.warning(
            "Readers poll for messages, since the doorbell's directory %s is not this user's alone (owner %d, mode %o)."
            " Run all processes of the site as one user, and set the mode to 700.",
            wanted,
            found.st_uid,
            found.st_mode & 0o777,
        )
        return None
    return wanted


def short_directory(what: str) -> Path:
    """A directory of this user's with a short name, the same in every process for the same ``what``."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    return Path(tempfile.gettempdir()) / f"channels-{user}-{sha256(what.encode()).hexdigest()[:16]}"
