"""The first commands of every new connection, and what their answers say about the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from channels_layer_redis.transport.addresses import Login
from channels_layer_redis.transport.replies import CommandError, Reply, TransportError
from channels_layer_redis.transport.scripts import Command, Script

__all__ = ["Greeting", "Refused", "ServerFacts", "read_login"]


class Refused(Exception):
    """A connection that cannot be used; the text says why, without the password."""


def read_login(login: Login) -> tuple[str, ...]:
    """The arguments of ``AUTH``. May wait where a provider gives them.

    Raises :class:`Refused` when the provider fails.
    """
    try:
        return login.read()
    except Exception as error:  # a provider is somebody else's code
        raise Refused(f"the provider of credentials failed ({type(error).__name__}: {error})") from error


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What a server said about itself when a connection was made. Where it refused to say, the value is ``None``."""

    version: tuple[int, ...] = ()
    """Of Valkey or of Redis; empty where it is not known."""
    is_valkey: bool = False
    is_cluster: bool = False
    run_id: str | None = None
    """Another one after each start of the server."""
    role: str | None = None
    maxmemory_policy: str | None = None
    is_aof: bool | None = None
    is_rdb: bool | None = None
    can_unblock: bool = True
    """Whether we may end a blocking read from another connection."""

    @property
    def is_persistent(self) -> bool | None:
        """Whether what it holds outlives its process in some way."""
        return None if self.is_aof is None and self.is_rdb is None else bool(self.is_aof or self.is_rdb)


class Greeting:
    """The commands, and the judgement of their replies. Input and output are the caller's."""

    def __init__(
        self,
        *,
        login: tuple[str, ...],
        db: int,
        client_name: str,
        scripts: Sequence[Script],
        needs_master: bool,
        may_be_cluster: bool,
    ) -> None:
        self._named: dict[str, int] = {}
        self.commands: list[Command] = []
        if login:
            self._add("auth", ("AUTH", *login))
        if db:
            self._add("select", ("SELECT", db))
        self._add("id", ("CLIENT", "ID"))
        self._add("unblock", ("CLIENT", "UNBLOCK", 0))
        self._add("name", ("CLIENT", "SETNAME", client_name))
        self._add("info", ("INFO",))
        self._add("save", ("CONFIG", "GET", "save"))
        if needs_master:
            self._add("role", ("ROLE",))
        self._needs_master = needs_master
        self._may_be_cluster = may_be_cluster
        self._scripts = list(scripts)
        self.commands += [("SCRIPT", "LOAD", script.source) for script in scripts]

    def _add(self, name: str, command: Command) -> None:
        self._named[name] = len(self.commands)
        self.commands.append(command)

    def judge(self, replies: Sequence[Reply]) -> tuple[int, ServerFacts]:
        """The connection's id and the server's facts.

        Raises :class:`Refused` when the connection is of no use.
        """
        said = {name: replies[index] for name, index in self._named.items()}
        for name in ("auth", "select", "id"):
            reply = said.get(name)
            is_forbidden = (
                name == "id" and isinstance(reply, CommandError) and reply.code in ("NOPERM", "ERR")
            )
            if isinstance(reply, CommandError) and not is_forbidden:
                raise Refused(f"the server refused {' '.join(map(str, self._shown(name)))}: {reply.text}")
        for reply in said.values():
            if isinstance(reply, TransportError) and not isinstance(reply, CommandError):
                raise Refused("the server ended the connection before it had answered its first commands")
        info = _info(said["info"])
        if info.get("loading") == "1":
            raise Refused("the server is still loading its data")
        if info.get("cluster_enabled") == "1" and not self._may_be_cluster:
            raise Refused("the server is a node of a cluster: name the cluster's nodes in the option cluster")
        role = said.get("role")
        if self._needs_master and isinstance(role, list) and role and role[0] != b"master":
            raise Refused(f"the server is a {role[0].decode()}, not the master")
        for script, reply in zip(self._scripts, replies[len(self._named) :], strict=False):
            if isinstance(reply, CommandError) and reply.code not in ("READONLY", "MASTERDOWN"):
                raise Refused(f"the server refused to load the script {script.name}: {reply.text}")
        return said["id"] if isinstance(said["id"], int) else 0, _facts(said)

    def _shown(self, name: str) -> Command:
        return ("AUTH",) if name == "auth" else self.commands[self._named[name]]


def _facts(said: dict[str, Any]) -> ServerFacts:
    info = _info(said["info"])
    save = said["save"]
    if isinstance(save, list) and len(save) == 2:
        is_rdb = bool(save[1].strip())
    else:
        is_rdb = None
    text = info.get("valkey_version") or info.get("redis_version") or ""
    return ServerFacts(
        version=tuple(int(part) for part in text.split(".") if part.isdecimal()),
        is_valkey="valkey_version" in info,
        is_cluster=info.get("cluster_enabled") == "1",
        run_id=info.get("run_id"),
        role=info.get("role"),
        maxmemory_policy=info.get("maxmemory_policy"),
        is_aof=None if "aof_enabled" not in info else info["aof_enabled"] == "1",
        is_rdb=is_rdb,
        can_unblock=not isinstance(said["unblock"], CommandError) and isinstance(said["id"], int),
    )


def _info(reply: Reply) -> dict[str, str]:
    if not isinstance(reply, bytes):
        return {}
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in lines}
