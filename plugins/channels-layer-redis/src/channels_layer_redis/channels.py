"""What is known of each channel, and plans: the steps of one script call.

The step letters and their arguments are those of scripts/exchange.lua.
"""

from __future__ import annotations

from typing import Final

from channels_core.layers import AT_LEAST_ONCE, LayerBackend
from channels_core.names import process_of
from channels_layer_redis.keys import Keys
from channels_layer_redis.scripts import EXCHANGE, REPLY, SEND
from channels_layer_redis.transport import Command

__all__ = ["Address", "Channels", "Inlet", "Lease", "Plan", "Queue", "Taken", "sent_field"]

_REMEMBERED: Final = 8192
_LONG: Final = 86_400_000
_GRACE: Final = 60_000
HEAD: Final = 5
"""How many arguments of the script come before the steps."""


class Queue:
    """A normal or ``?`` channel, or a prefix that no process owns: a stream that any reader may take from."""

    __slots__ = (
        "capacity",
        "has_locals",
        "is_leased",
        "key",
        "leased_flag",
        "max_bytes",
        "name",
        "send_head",
        "tag",
        "ttl",
    )

    def __init__(self, name: str, channels: Channels) -> None:
        options, keys = channels.options, channels.keys
        self.name = name
        self.key = keys.of_channel("c", name)
        self.tag = keys.tag_of(name)
        self.capacity = options.capacity_of(name)
        self.is_leased = options.delivery_class_of(name) == AT_LEAST_ONCE
        self.leased_flag = int(self.is_leased)
        self.has_locals = name.endswith("!")
        shares_room = self.has_locals and options.explicit_capacity_of(name) is None
        self.max_bytes = options.inbox_bytes if shares_room else 0
        self.ttl = 0
        if "?" in name or self.has_locals:  # names used once: what nobody reads any more goes by itself
            self.ttl = _LONG if self.is_leased else int(options.expiry * 1000) + _GRACE
        front = keys.of_channel("f", name)
        self.send_head: Command = ("EVALSHA", SEND.sha, 2, self.key, front, self.capacity, self.ttl)
        """The command that sends one message, but for its last argument, the envelope. Not for what has locals."""


class Inlet:
    """One prefix of a process: part of its inbox."""

    __slots__ = (
        "capacity",
        "field",
        "inbox",
        "max_bytes",
        "own",
        "prefix",
        "process",
        "process_key",
        "send_head",
    )

    def __init__(self, prefix: str, process: str, channels: Channels) -> None:
        options, keys = channels.options, channels.keys
        self.prefix = prefix
        self.process = process
        self.process_key = keys.of_process("p", process)
        self.inbox = keys.of_process("i", process)
        explicit = options.explicit_capacity_of(prefix)
        self.own = "" if explicit is None else "x"
        self.field = sent_field(prefix, self.own)
        self.capacity = options.inbox_capacity if explicit is None else explicit
        self.max_bytes = options.inbox_bytes if explicit is None else 0
        limits = self.field, self.capacity, self.max_bytes
        self.send_head: Command = ("EVALSHA", REPLY.sha, 2, self.process_key, self.inbox, *limits)
        """The command that sends one message, but for its last three arguments: size, header and envelope."""


def sent_field(prefix: str, own: str) -> str:
    """The field of the process's hash that counts messages to ``prefix``."""
    return f"c{prefix}" if own else "n"


Address = Queue | Inlet


class Lease:
    """Token of a leased delivery."""

    __slots__ = ("__weakref__", "consumer", "queue", "ref")

    def __init__(self, queue: Queue, ref: bytes, consumer: str) -> None:
        self.queue = queue
        self.ref = ref
        self.consumer = consumer


class Taken:
    """Token of a delivery that was taken for good: what is needed to put it back, once."""

    __slots__ = ("body", "id", "is_spent", "meta", "source")

    def __init__(self, source: Queue, entry_id: bytes, meta: bytes, body: bytes) -> None:
        self.source = source
        self.id = entry_id
        self.meta = meta
        self.body = body
        self.is_spent = False

    def fields(self) -> tuple[str, str, str, str]:
        """Since when it waited (ms, as text), its size, its group and its locals."""
        since, size, group, locals_ = "", "0", "", ""
        if self.meta:
            _, since, _, size, group, locals_ = self.meta.decode().split(":")
        return since or self.id.partition(b"-")[0].decode(), size or "0", group, locals_


class Channels:
    """Addresses by name, made once and remembered."""

    def __init__(self, options: LayerBackend, keys: Keys, dead_letter_limit: int) -> None:
        self.options = options
        self.keys = keys
        self.head: Command = (
            keys.prefix,
            int(options.expiry * 1000),
            int(options.lease * 1000),
            options.max_attempts,
            dead_letter_limit,
        )
        self._addresses: dict[str, Address] = {}

    def of(self, name: str) -> Address:
        """Where messages to the channel or prefix ``name`` go."""
        mark = name.find("!") + 1
        prefix = name[:mark] if mark else name
        found = self._addresses.get(prefix)
        if found is None:
            process = process_of(prefix) if mark else None
            found = Queue(prefix, self) if process is None else Inlet(prefix, process, self)
            if len(self._addresses) >= _REMEMBERED:
                self._addresses.clear()
            self._addresses[prefix] = found
        return found

    def queue(self, name: str) -> Queue:
        """The same, for what is known to be no process's."""
        found = self.of(name)
        assert isinstance(found, Queue)
        return found


class Plan:
    """Steps for one call of the script; afterwards ``codes`` holds the character that each one left."""

    __slots__ = ("_index", "_run", "_run_at", "args", "codes", "count", "is_numbered", "keys", "queues")

    def __init__(self, head: Command) -> None:
        self.keys: list[str] = []
        self._index: dict[str, int] = {}
        self.args: list[str | bytes | int | float] = list(head)
        self.count = 0
        self.codes = b""
        self.is_numbered = False
        self.queues: dict[int, Queue] = {}
        self._run: tuple[Command, int] = (), 0
        self._run_at = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def key(self, key: str) -> int:
        """The index by which a step names ``key``."""
        index = self._index.get(key)
        if index is None:
            self.keys.append(key)
            index = self._index[key] = len(self.keys)
        return index

    def step(self, *args: str | bytes | int | float) -> int:
        """Add one step; returns its place."""
        self._run = (), 0
        self.args += args
        self.count += 1
        return self.count - 1

    def repeat(self, head: Command, *args: str | bytes | int | float) -> int:
        """Add to a step that does the same with several arguments, or begin one; returns the place."""
        known, number = self._run
        if known != head:
            number = 0
            self.args += head
            self._run_at = len(self.args)
            self.args.append(0)
        self._run = head, number + 1
        self.args[self._run_at] = number + 1
        self.args += args
        self.count += 1
        return self.count - 1

    def number(self, keys: Keys, sender: str, number: int) -> None:
        """Make it a call that may be repeated: the ``number``-th of ``sender``."""
        tag = self.keys[0].partition("{")[2].partition("}")[0]
        index = self.key(keys.of_sender(tag, sender))
        self.args[HEAD:HEAD] = ["U", index, number]
        self.is_numbered = True

    def of_queue(self, queue: Queue) -> int:
        """The index of a queue's key, by which its deliveries are named too."""
        index = self.key(queue.key)
        self.queues[index] = queue
        return index

    def command(self) -> Command:
        return ("EVALSHA", EXCHANGE.sha, len(self.keys), *self.keys, *self.args)
