"""The signals around consumers, and the database connections that end with them.

:class:`DjangoEvents` is how a worker comes to send them. It is on every message's way, so a signal that nobody
receives costs an attribute, and a consumer that opened no connection is not charged for closing one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextvars import ContextVar
from time import monotonic
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.dispatch import Signal

from channels_core.worker import Worker, WorkerEvents

__all__ = [
    "DjangoEvents",
    "consumer_finished",
    "consumer_started",
    "worker_process_ready",
    "worker_ready",
]

consumer_started = Signal()
"""Before each consumer: ``sender`` is the Worker class, ``environ`` an empty dict."""

consumer_finished = Signal()
"""After each consumer, also one that raised, before what it sent leaves. ``sender`` is the Worker class."""

worker_ready = Signal()
"""A worker is about to read its first message; ``sender`` is the worker."""

worker_process_ready = Signal()
"""A ``runworker`` process is about to start its worker; ``sender`` is the command. Never sent by ``runserver``."""

_VISIT_INTERVAL = 1.0


class DjangoEvents(WorkerEvents):
    """Sends the signals, and closes connections that are broken or older than ``CONN_MAX_AGE``.

    After a synchronous consumer that means those that its thread has opened; inside an ``atomic`` block nothing is
    closed. Asynchronous consumers use the database in a helper thread. That is visited after a run that opened a
    connection there, and at most once a second while such a connection may be open. A worker's thread that ends closes
    all of its own.
    """

    def __init__(self) -> None:
        self._is_async_database_used = False
        self._visited_at = 0.0
        connection_created.connect(_note_opened, dispatch_uid="channels_django.connections")

    def worker_ready(self, worker: Worker) -> None:
        worker_ready.send(sender=worker)

    def consumer_started(self) -> None:
        if consumer_started.receivers:
            consumer_started.send(sender=Worker, environ={})

    def consumer_finished(self) -> None:
        try:
            if consumer_finished.receivers:
                consumer_finished.send(sender=Worker)
        finally:
            if _of_thread.opened:
                _close_old(_of_thread.opened.values())

    async def aconsumer_started(self) -> None:
        _opened.set([])
        if consumer_started.receivers:
            await consumer_started.asend(sender=Worker, environ={})

    async def aconsumer_finished(self) -> None:
        try:
            if consumer_finished.receivers:
                await consumer_finished.asend(sender=Worker)
        finally:
            if _opened.get():
                self._is_async_database_used = True
                await self._visit()
            elif self._is_async_database_used and monotonic() - self._visited_at > _VISIT_INTERVAL:
                await self._visit()

    def thread_finished(self) -> None:
        connections.close_all()
        _of_thread.opened.clear()

    async def _visit(self) -> None:
        self._visited_at = monotonic()
        await sync_to_async(_close_old_of_thread)()


def _close_old(of_thread: Iterable[BaseDatabaseWrapper]) -> None:
    """Django's own closing takes the autocommit that an ``atomic`` block has switched off for a reason to close."""
    for connection in of_thread:
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def _close_old_of_thread() -> None:
    _close_old(connections.all(initialized_only=True))


class _ThreadConnections(threading.local):
    """The database connections that this thread has opened, by alias.

    Asking Django's handler for them instead costs five microseconds after each consumer, database or not.
    """

    def __init__(self) -> None:
        self.opened: dict[str, BaseDatabaseWrapper] = {}


_of_thread = _ThreadConnections()

_opened: ContextVar[list[str] | None] = ContextVar("channels_django_opened", default=None)
"""The aliases of connections opened by the asynchronous run in whose context this code runs."""


def _note_opened(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    _of_thread.opened[connection.alias] = connection
    opened = _opened.get()
    if opened is not None:
        opened.append(connection.alias)
