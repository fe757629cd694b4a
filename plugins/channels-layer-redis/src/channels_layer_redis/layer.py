"""The layer on Redis and Valkey: the contract's operations, each driven synchronously or asynchronously."""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, sleep
from typing import Any, Final

from channels_core.exceptions import InvalidChannelLayerError, LayerUnavailable
from channels_core.layers import (
    AT_LEAST_ONCE,
    AT_MOST_ONCE,
    ChannelFigures,
    DeadLetter,
    Delivery,
    Exchange,
    LayerBackend,
    Outcome,
    ProcessInfo,
    ProcessKind,
    Send,
    Settlement,
    Turn,
)
from channels_core.outage import pauses
from channels_layer_redis.channels import Channels
from channels_layer_redis.cleaning import Cleaning
from channels_layer_redis.encryption import Cipher
from channels_layer_redis.engine import Engine
from channels_layer_redis.envelope import Envelope
from channels_layer_redis.figures import Figures
from channels_layer_redis.gathering import Gathering
from channels_layer_redis.groups import Groups
from channels_layer_redis.keys import Keys
from channels_layer_redis.processes import Processes
from channels_layer_redis.receiving import Receiving
from channels_layer_redis.scripts import ALL
from channels_layer_redis.sending import Sending
from channels_layer_redis.servers import problems
from channels_layer_redis.settling import Settling
from channels_layer_redis.transport import Command, Reply, Servers, Transport

__all__ = ["RedisBackend"]

logger: Final = logging.getLogger("channels.redis")

_REPEATED_FOR: Final = 15.0
_PUT_BACK_WITHIN: Final = 5.0
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class RedisBackend(LayerBackend):
    """Channels on one Redis or Valkey server, one that Sentinels name, a cluster, or several servers.

    Takes the options that every layer has; those of :meth:`channels_layer_redis.transport.Servers.from_options`, which
    say where the servers are; and:

    ``prefix``: what all keys begin with. Layers with different prefixes on one server know nothing of each other.
    ``channel_tags``: on how many hash slots normal channels are spread; a reader waits for one slot at a time.
    ``durable_sends``: how many replicas must have a send before it counts as sent; 0 does not ask.
    ``dead_letter_limit``: how many dead letters of a channel are kept, roughly; the oldest go first.
    ``deduplicate``: whether a call that was not answered is repeated, and done once. Else such sends are uncertain.
    ``encryption_keys``: secrets, the first of which seals messages; ``symmetric_encryption_keys`` is its old name.
    ``compress_above``: bytes from which a message is compressed; none are where it is ``None``.

    Raises :class:`~channels_core.exceptions.InvalidChannelLayerError`.
    """

    delivery_classes = frozenset({AT_MOST_ONCE, AT_LEAST_ONCE})
    is_waiting = True

    def __init__(
        self,
        *,
        hosts: Any = None,
        sentinels: Any = None,
        master_name: str | None = None,
        cluster: Any = None,
        username: str | None = None,
        password: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        db: int | None = None,
        credentials: Any = None,
        tls: Any = None,
        connect_timeout: float = 5.0,
        answer_timeout: float = 10.0,
        retry_timeout: float = 3.0,
        client_name: str = "channels",
        prefix: str = "channels",
        channel_tags: int = 1,
        durable_sends: int = 0,
        dead_letter_limit: int = 10_000,
        encryption_keys: Sequence[str | bytes] | None = None,
        symmetric_encryption_keys: Sequence[str | bytes] | None = None,
        compress_above: int | None = None,
        deduplicate: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        servers = Servers.from_options(
            hosts,
            sentinels=sentinels,
            master_name=master_name,
            cluster=cluster,
            username=username,
            password=password,
            sentinel_username=sentinel_username,
            sentinel_password=sentinel_password,
            db=db,
            credentials=credentials,
            tls=tls,
            connect_timeout=connect_timeout,
            answer_timeout=answer_timeout,
            retry_timeout=retry_timeout,
            client_name=client_name,
        )
        if not isinstance(prefix, str) or not _PREFIX.match(prefix):
            raise InvalidChannelLayerError(
                f"Option prefix of the Redis layer is {prefix!r}: it is 1 to 64 ASCII letters, digits, '.', '-' and"
                " '_', with which all its keys begin."
            )
        _check_int("channel_tags", channel_tags, 1)
        _check_int("durable_sends", durable_sends, 0)
        _check_int("dead_letter_limit", dead_letter_limit, 1)
        if compress_above is not None:
            _check_int("compress_above", compress_above, 1)
        if not isinstance(deduplicate, bool):
            raise InvalidChannelLayerError(
                f"Option deduplicate of the Redis layer is {deduplicate!r}: it is True or False."
            )
        if encryption_keys is not None and symmetric_encryption_keys is not None:
            raise InvalidChannelLayerError(
                "The Redis layer was given encryption_keys and symmetric_encryption_keys, which are the new and the old"
                " name of one option: remove the old one."
            )
        secrets = encryption_keys if encryption_keys is not None else symmetric_encryption_keys
        self._cipher = None if secrets is None else Cipher(secrets)
        keys = Keys(prefix, channel_tags)
        channels = Channels(self, keys, dead_letter_limit)
        self._transport = Transport(servers, scripts=ALL, on_salvaged=self._on_salvaged)
        envelope = Envelope(prefix, self._cipher, compress_above)
        engine = self._engine = Engine(
            self,
            keys,
            envelope,
            self._transport,
            channels,
            durable_sends,
            _REPEATED_FOR if deduplicate else 0.0,
        )
        self._sending = Sending(engine)
        self._settling = Settling(engine)
        self._groups = Groups(engine)
        self._processes = Processes(engine, self._groups)
        self._figures = Figures(engine, self._processes)
        self._cleaning = Cleaning(engine, self._processes)
        self._receiving = Receiving(
            engine,
            self._sending,
            self._settling,
            self._processes.inbox,
            self._processes.hold,
            self._processes.look_after,
            self._processes.recover,
            self._put_back_later,
        )
        engine.before_call = self._processes.pay_debts
        engine.has_debts = self._processes.has_debts
        self._has_checked = self._is_closed = False
        self.is_exchange_atomic = not engine.is_sharded  # type: ignore[misc]  # it depends on the servers
        _backends.add(self)

    def _after_fork(self) -> None:
        self._engine.forget_connections()
        self._processes.forget()
        if self._cipher is not None:
            self._cipher.forget_own_key()

    def _on_salvaged(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Replies came to a receive that was cancelled: what they brought goes back."""
        settlements = self._receiving.take_salvaged(commands, replies)
        if settlements:
            self._put_back_later(settlements)

    def _put_back_later(self, settlements: Sequence[Settlement]) -> None:
        # not by the loop or thread that was cancelled: it may be about to end, and must not wait
        threading.Thread(target=self._put_back, args=(settlements,), name="channels-redis-return").start()

    def _put_back(self, settlements: Sequence[Settlement]) -> None:
        end = monotonic() + _PUT_BACK_WITHIN
        for pause in pauses(0.05, 1.0):
            try:
                self._engine.run(self._settling.settle(settlements, is_counted=False))
            except LayerUnavailable as error:
                if monotonic() + pause < end and not self._is_closed:
                    sleep(pause)
                    continue
                logger.error(
                    "%d messages of a receive that was given up could not be put back: %s",
                    len(settlements),
                    error,
                )
            return

    # Sending.

    def send_one(self, send: Send) -> Outcome:
        return self._engine.run(self._sending.send_one(send))

    async def asend_one(self, send: Send) -> Outcome:
        engine = self._engine
        if engine.is_sharded:  # one server's silence must not hold up what goes to others
            return await engine.arun(self._sending.send_one(send))
        client = self._transport.for_loop()
        gathering = client.companion
        if gathering is None:
            gathering = client.companion = Gathering(engine, self._sending, client.loop)
        return await gathering.send(send)  # type: ignore[no-any-return]  # the transport does not know what it is

    def send_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        return self._engine.run(self._sending.send_batch(sends))

    async def asend_batch(self, sends: Sequence[Send]) -> list[Outcome]:
        return await self._engine.arun(self._sending.send_batch(sends))

    # Receiving.

    def receive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        steps = self._receiving.receive(channels, limit, timeout, process)
        return self._engine.run(steps, is_reader=True)

    async def areceive_batch(
        self,
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = None,
        process: str | None = None,
    ) -> list[Delivery]:
        return await self._engine.arun(self._receiving.receive(channels, limit, timeout, process))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self._engine.run(self._settling.settle(settlements))

    async def asettle(self, settlements: Sequence[Settlement]) -> None:
        await self._engine.arun(self._settling.settle(settlements))

    def exchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        steps = self._receiving.exchange(turns, channels, limit, timeout, process)
        return self._engine.run(steps, is_reader=bool(channels))

    async def aexchange(
        self,
        turns: Sequence[Turn],
        channels: Sequence[str],
        *,
        limit: int = 1,
        timeout: float | None = 0,
        process: str | None = None,
    ) -> Exchange:
        return await self._engine.arun(self._receiving.exchange(turns, channels, limit, timeout, process))

    def renew_leases(self, deliveries: Sequence[Delivery]) -> None:
        self._engine.run(self._settling.renew_leases(deliveries))

    async def arenew_leases(self, deliveries: Sequence[Delivery]) -> None:
        await self._engine.arun(self._settling.renew_leases(deliveries))

    # Groups.

    def group_add(self, group: str, channel: str) -> None:
        self._engine.run(self._groups.add(group, channel))

    async def agroup_add(self, group: str, channel: str) -> None:
        await self._engine.arun(self._groups.add(group, channel))

    def group_discard(self, group: str, channel: str) -> None:
        self._engine.run(self._groups.discard(group, channel))

    async def agroup_discard(self, group: str, channel: str) -> None:
        await self._engine.arun(self._groups.discard(group, channel))

    def group_channels(self, group: str) -> list[str]:
        return self._engine.run(self._groups.channels(group))

    async def agroup_channels(self, group: str) -> list[str]:
        return await self._engine.arun(self._groups.channels(group))

    def group_count(self, group: str) -> int:
        return self._engine.run(self._groups.count(group))

    async def agroup_count(self, group: str) -> int:
        return await self._engine.arun(self._groups.count(group))

    def groups(self) -> dict[str, int]:
        names = self._engine.run(self._figures.names("r", "o"))
        return self._engine.run(self._groups.groups(names))

    async def agroups(self) -> dict[str, int]:
        names = await self._engine.arun(self._figures.names("r", "o"))
        return await self._engine.arun(self._groups.groups(names))

    def close_channel(self, channel: str) -> None:
        self._engine.run(self._groups.close_channel(channel))

    async def aclose_channel(self, channel: str) -> None:
        await self._engine.arun(self._groups.close_channel(channel))

    # Processes.

    def open_process(self, kind: ProcessKind, *, label: str = "") -> str:
        process = self._engine.run(self._processes.open(kind, label))
        self._check_server()
        return process

    async def aopen_process(self, kind: ProcessKind, *, label: str = "") -> str:
        process = await self._engine.arun(self._processes.open(kind, label))
        self._check_server()
        return process

    def renew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        return self._engine.run(self._processes.renew(process, load, counters))

    async def arenew_process(
        self, process: str, *, load: float = 0.0, counters: Mapping[str, int] | None = None
    ) -> bool:
        return await self._engine.arun(self._processes.renew(process, load, counters))

    def close_process(self, process: str) -> None:
        self._engine.run(self._processes.close(process))

    async def aclose_process(self, process: str) -> None:
        await self._engine.arun(self._processes.close(process))

    def processes(self) -> list[ProcessInfo]:
        return self._engine.run(self._processes.processes())

    async def aprocesses(self) -> list[ProcessInfo]:
        return await self._engine.arun(self._processes.processes())

    # For people.

    def flush(self) -> None:
        self._engine.run(self._figures.flush())

    async def aflush(self) -> None:
        await self._engine.arun(self._figures.flush())

    def statistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        return self._engine.run(self._figures.statistics(channels))

    async def astatistics(self, channels: Iterable[str] | None = None) -> list[ChannelFigures]:
        return await self._engine.arun(self._figures.statistics(channels))

    def dead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        return self._engine.run(self._figures.dead_letters(channel, limit))

    async def adead_letters(self, channel: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        return await self._engine.arun(self._figures.dead_letters(channel, limit))

    def replay_dead(self, ids: Sequence[str]) -> int:
        return self._engine.run(self._figures.replay_dead(ids))

    async def areplay_dead(self, ids: Sequence[str]) -> int:
        return await self._engine.arun(self._figures.replay_dead(ids))

    def drop_dead(self, ids: Sequence[str]) -> int:
        return self._engine.run(self._figures.drop_dead(ids))

    async def adrop_dead(self, ids: Sequence[str]) -> int:
        return await self._engine.arun(self._figures.drop_dead(ids))

    def clean(self, *, limit: int | None = None) -> int:
        return self._engine.run(self._cleaning.clean(limit))

    async def aclean(self, *, limit: int | None = None) -> int:
        return await self._engine.arun(self._cleaning.clean(limit))

    # Waking and ending.

    def wake(self) -> None:
        self._engine.wakes += 1
        self._transport.wake()

    async def aleave_loop(self) -> None:
        await self._transport.aleave_loop()

    def close(self) -> None:
        self._is_closed = True
        self.wake()
        self._transport.close()
        super().close()

    def _check_server(self) -> None:
        """Refuse a server that is too old; warn, once, where it will lose what it should keep."""
        if self._has_checked:
            return
        self._has_checked = True
        for problem in problems(self._transport.all_facts, keeps=AT_LEAST_ONCE in self.delivery.values()):
            logger.warning("%s", problem)


def _check_int(option: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidChannelLayerError(
            f"Option {option} of the Redis layer is {value!r}: it must be an integer of at least {least}."
        )


_backends: weakref.WeakSet[RedisBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_backends):
        backend._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
