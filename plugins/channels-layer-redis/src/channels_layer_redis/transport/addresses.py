"""Where the servers are, and how one shows oneself to them: the ``CONFIG`` options that say so, checked early.

No text made here holds a password, whatever was wrong with it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from channels_core.exceptions import InvalidChannelLayerError

__all__ = ["TLS", "Address", "Endpoint", "Login", "Servers", "ServersKind"]

ServersKind: TypeAlias = Literal["one", "several", "sentinel", "cluster"]

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_ENTRY_KEYS: Final = ("address", "host", "port", "path", "db", "username", "password", "ssl")
_QUERY_KEYS: Final = {
    "db": "db",
    "username": "username",
    "password": "password",
    "ssl_ca_certs": "ca",
    "ssl_certfile": "cert",
    "ssl_keyfile": "key",
    "ssl_check_hostname": "check_hostname",
    "ssl_cert_reqs": "verify",
}
_TLS_KEYS: Final = ("ca", "cert", "key", "check_hostname", "verify")


@dataclass(frozen=True, order=True)
class Address:
    """A server's place: ``host`` and ``port``, or a unix socket's ``host`` (its path) with ``port`` 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Login:
    """Who one is to the server. A provider is asked at each new connection, so what it gives may change."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    provider: Callable[[], Any] | None = field(default=None, repr=False)

    def read(self) -> tuple[str, ...]:
        """The arguments of ``AUTH``; empty where there is nobody to be. May wait where there is a provider.

        Raises whatever the provider raises, and ``ValueError`` when it gives something else than one or two texts.
        """
        if self.provider is None:
            if self.password is None:
                return ()
            return (self.username, self.password) if self.username else (self.password,)
        given = self.provider()
        parts = (given,) if isinstance(given, str) else tuple(given)
        if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"The provider of credentials gave {len(parts)} values of types"
                f" {', '.join(type(part).__name__ for part in parts) or 'none'}:"
                " it must give (username, password), (password,) or a password."
            )
        return parts


@dataclass(frozen=True)
class TLS:
    """How the server proves itself, and we to it. ``ca`` none means the system's authorities."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    check_hostname: bool = True
    verify: bool = True

    @cached_property
    def context(self) -> ssl.SSLContext:
        """Made once; shared by all connections."""
        context = ssl.create_default_context(cafile=self.ca)
        context.check_hostname = self.check_hostname and self.verify
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


@dataclass(frozen=True)
class Endpoint:
    """One server, and all one needs to talk to it."""

    address: Address
    login: Login = Login()
    db: int = 0
    tls: TLS | None = None

    def __str__(self) -> str:
        if not self.address.port:
            return f"unix://{self.address}" + (f"?db={self.db}" if self.db else "")
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}://{self.address}" + (f"/{self.db}" if self.db else "")


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The servers of a layer. ``kind`` says what ``endpoints`` are:

    ``one``: the server. ``several``: servers that share the keys by hash slot and know nothing of each other; their
    order matters. ``cluster``: nodes to ask for the others. ``sentinel``: Sentinels to ask for ``master_name``'s
    server, which is then reached like ``template``, as discovered nodes of a cluster are.
    """

    kind: ServersKind
    endpoints: tuple[Endpoint, ...]
    template: Endpoint
    master_name: str = ""
    connect_timeout: float = 5.0
    """Seconds for a connection, its TLS handshake and its first commands."""
    answer_timeout: float = 10.0
    """Seconds without an answer, beyond what a command may block, after which a connection counts as lost."""
    retry_timeout: float = 3.0
    """Seconds in which commands are repeated that the server refused for a while, or that redirected us."""
    client_name: str = "channels"

    def __str__(self) -> str:
        places = ", ".join(str(endpoint) for endpoint in self.endpoints)
        if self.kind == "sentinel":
            return f"{self.master_name!r} of the Sentinels {places}"
        return f"the cluster of {places}" if self.kind == "cluster" else places

    @property
    def is_sharded(self) -> bool:
        """Whether keys live on different servers, so that no command may name keys of two hash slots."""
        return self.kind in ("cluster", "several")

    @classmethod
    def from_options(
        cls,
        hosts: Any = None,
        *,
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
    ) -> Servers:
        """Servers as ``CONFIG`` describes them.

        ``hosts``: one of, or a list of, URLs (``redis://``, ``rediss://``, ``unix://``), ``(host, port)`` pairs and
        dicts (``address`` or ``host``, ``port``, ``db``, ``username``, ``password``, ``ssl``); or one dict with
        ``sentinels`` and ``master_name``. ``cluster`` is the same list for nodes of a cluster, or ``True`` if
        ``hosts`` are. What a URL or dict leaves open is taken from the other options. ``credentials`` is a callable,
        or an object with ``get_credentials()``, that gives ``(username, password)``. ``tls`` is ``True`` or a dict of
        ``ca``, ``cert``, ``key`` (paths), ``check_hostname``, ``verify``.

        Raises :class:`~channels_core.exceptions.InvalidChannelLayerError`.
        """
        for name, seconds in (
            ("connect_timeout", connect_timeout),
            ("answer_timeout", answer_timeout),
            ("retry_timeout", retry_timeout),
        ):
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
                raise InvalidChannelLayerError(
                    f"Option {name} of the Redis layer is {seconds!r}: it is a number of seconds above 0."
                )
        template = Endpoint(
            Address("localhost", _PORT), _login(username, password, credentials), _db(db), _tls(tls)
        )
        kind: ServersKind
        if isinstance(hosts, (list, tuple)) and len(hosts) == 1 and isinstance(hosts[0], Mapping):
            hosts = hosts[0]
        if isinstance(hosts, Mapping) and ("sentinels" in hosts or "master_name" in hosts):
            known = ("sentinels", "master_name", "db", "username", "password", "sentinel_kwargs")
            _check_keys("hosts", hosts, known)
            inner = hosts.get("sentinel_kwargs") or {}
            _check_keys("sentinel_kwargs", inner, ("username", "password"))
            sentinels = sentinels or hosts.get("sentinels")
            master_name = master_name or hosts.get("master_name")
            sentinel_username = sentinel_username or inner.get("username")
            sentinel_password = sentinel_password or inner.get("password")
            template = _filled(template, {key: hosts[key] for key in hosts if key in _ENTRY_KEYS})
            hosts = None
        if cluster is True:
            cluster, hosts = ([("localhost", _PORT)] if hosts is None else hosts), None
        if sum(option is not None and option is not False for option in (hosts, sentinels, cluster)) > 1:
            raise InvalidChannelLayerError(
                "The Redis layer was given more than one of the options hosts, sentinels and cluster: each of them"
                " says where the servers are, so give one."
            )
        if sentinels is not None:
            if not master_name or not isinstance(master_name, str):
                raise InvalidChannelLayerError(
                    f"The Redis layer was given sentinels and master_name {master_name!r}: the Sentinels must be asked"
                    " for a master by its name. Add master_name, as it stands in sentinel.conf."
                )
            kind = "sentinel"
            plain = Endpoint(
                Address("localhost", _SENTINEL_PORT),
                Login(sentinel_username, sentinel_password),
                0,
                template.tls,
            )
            endpoints = _endpoints("sentinels", sentinels, plain)
        elif cluster is not None and cluster is not False:
            kind = "cluster"
            endpoints = _endpoints("cluster", cluster, template)
            template = replace(template, login=endpoints[0].login, tls=endpoints[0].tls)
            if any(endpoint.db for endpoint in endpoints):
                raise InvalidChannelLayerError(
                    "The Redis layer was given a database number other than 0 for a cluster, which has only database 0."
                    " Remove db, and keep applications apart by prefix."
                )
        else:
            endpoints = _endpoints("hosts", ("localhost", _PORT) if hosts is None else hosts, template)
            kind = "one" if len(endpoints) == 1 else "several"
        for endpoint in (*endpoints, template):
            _check_tls(endpoint.tls)
        return cls(
            kind=kind,
            endpoints=endpoints,
            template=template,
            master_name=master_name or "",
            connect_timeout=connect_timeout,
            answer_timeout=answer_timeout,
            retry_timeout=retry_timeout,
            client_name=client_name,
        )


def _endpoints(option: str, given: Any, template: Endpoint) -> tuple[Endpoint, ...]:
    """``given`` as a list; what is one entry, as people write it, becomes a list of one."""
    if isinstance(given, (str, Mapping)) or _is_pair(given):
        given = [given]
    if not isinstance(given, Sequence) or not given:
        raise InvalidChannelLayerError(
            f"Option {option} of the Redis layer is of type {type(given).__name__}, or empty: it is a list of URLs,"
            " (host, port) pairs or dicts, or one of them."
        )
    return tuple(_endpoint(option, entry, template) for entry in given)


def _is_pair(given: Any) -> bool:
    return (
        isinstance(given, (list, tuple))
        and len(given) == 2
        and isinstance(given[0], str)
        and isinstance(given[1], int)
        and not isinstance(given[1], bool)
    )


def _endpoint(option: str, entry: Any, template: Endpoint) -> Endpoint:
    if isinstance(entry, str):
        return _from_url(option, entry, template)
    if _is_pair(entry):
        return _filled(template, {"host": entry[0], "port": entry[1]})
    if isinstance(entry, Mapping):
        _check_keys(option, entry, _ENTRY_KEYS)
        rest = dict(entry)
        address = rest.pop("address", None)
        if isinstance(address, str):
            template = _from_url(option, address, template)
        elif address is not None:
            if not _is_pair(address):
                raise InvalidChannelLayerError(
                    f"An entry of option {option} of the Redis layer has an address of type {type(address).__name__}:"
                    " it is a URL or a (host, port) pair."
                )
            template = _filled(template, {"host": address[0], "port": address[1]})
        return _filled(template, rest)
    raise InvalidChannelLayerError(
        f"An entry of option {option} of the Redis layer is of type {type(entry).__name__}: it is a URL"
        " ('redis://host:6379/0'), a (host, port) pair or a dict."
    )


def _from_url(option: str, url: str, template: Endpoint) -> Endpoint:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidChannelLayerError(
            f"A URL in option {option} of the Redis layer cannot be read: its host or its port is malformed. It looks"
            " like 'redis://user:password@host:6379/0', with odd characters of the password percent-encoded."
        ) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise InvalidChannelLayerError(
            f"A URL in option {option} of the Redis layer has the scheme {parts.scheme!r}; known are redis, rediss"
            " (TLS) and unix. It looks like 'redis://user:password@host:6379/0'."
        )
    values: dict[str, Any] = {}
    if parts.username:
        values["username"] = unquote(parts.username)
    if parts.password:
        values["password"] = unquote(parts.password)
    if parts.scheme == "unix":
        values["path"] = unquote(parts.path)
    else:
        values["host"] = unquote(parts.hostname or "localhost")
        values["port"] = port or template.address.port or _PORT
        if parts.path.strip("/"):
            values["db"] = unquote(parts.path.strip("/"))
    tls: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _QUERY_KEYS:
            raise InvalidChannelLayerError(
                f"A URL in option {option} of the Redis layer has the query option {name!r}; known are:"
                f" {', '.join(sorted(_QUERY_KEYS))}. Everything else is an option of CONFIG."
            )
        known = _QUERY_KEYS[name]
        if known in ("check_hostname", "verify"):
            tls[known] = value.lower() not in ("0", "no", "false", "none")
        elif known in _TLS_KEYS:
            tls[known] = value
        else:
            values[known] = value
    endpoint = _filled(template, values)
    if parts.scheme == "rediss":
        inherited = endpoint.tls or TLS()
        return replace(endpoint, tls=replace(inherited, **tls))
    return endpoint


def _filled(template: Endpoint, values: Mapping[str, Any]) -> Endpoint:
    """``template`` with what an entry says itself."""
    address = template.address
    if "path" in values:
        path = values["path"]
        if not isinstance(path, str) or not path.startswith("/"):
            raise InvalidChannelLayerError(
                f"The Redis layer was given the unix socket {path!r}: its path begins with '/', as in"
                " 'unix:///run/redis/redis.sock'."
            )
        address = Address(path, 0)
    elif "host" in values or "port" in values:
        host, port = values.get("host", address.host), values.get("port", address.port or _PORT)
        if not isinstance(host, str) or not host:
            raise InvalidChannelLayerError(
                f"The Redis layer was given the host {host!r}: it is a name or an IP address."
            )
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise InvalidChannelLayerError(
                f"The Redis layer was given the port {port!r}: it is a number from 1 to 65535."
            )
        address = Address(host, port)
    login = template.login
    if values.get("password") is not None or values.get("username") is not None:
        login = _login(values.get("username", login.username), values.get("password", login.password), None)
    db = _db(values["db"]) if values.get("db") is not None else template.db
    tls = template.tls
    if "ssl" in values:
        tls = (tls or TLS()) if values["ssl"] is True else _tls(values["ssl"])
    return Endpoint(address, login, db, tls if address.port else None)


def _check_keys(option: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise InvalidChannelLayerError(
            f"Option {option} of the Redis layer is of type {type(given).__name__}: it is a dict of:"
            f" {', '.join(known)}."
        )
    for name in given:
        if name not in known:
            raise InvalidChannelLayerError(
                f"An entry of option {option} of the Redis layer has the key {name!r}; known are: {', '.join(known)}."
            )


def _login(username: Any, password: Any, credentials: Any) -> Login:
    for name, value in (("username", username), ("password", password)):
        if value is not None and not isinstance(value, str):
            raise InvalidChannelLayerError(
                f"Option {name} of the Redis layer is of type {type(value).__name__}: it is a text."
            )
    if credentials is not None:
        provider = getattr(credentials, "get_credentials", credentials)
        if not callable(provider):
            raise InvalidChannelLayerError(
                f"Option credentials of the Redis layer is of type {type(credentials).__name__}: it is a callable, or"
                " an object with get_credentials(), that gives (username, password)."
            )
        if password is not None:
            raise InvalidChannelLayerError(
                "The Redis layer was given both password and credentials: keep the one that is right."
            )
        return Login(username, None, provider)
    if username is not None and password is None:
        raise InvalidChannelLayerError(
            f"The Redis layer was given the username {username!r} without a password. Add password, or credentials."
        )
    return Login(username, password)


def _db(given: Any) -> int:
    if given is None:
        return 0
    if isinstance(given, str) and given.isdecimal():
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise InvalidChannelLayerError(
            f"The Redis layer was given the database {given!r}: it is a number from 0."
        )
    return given


def _tls(given: Any) -> TLS | None:
    if given is None or given is False:
        return None
    if given is True:
        return TLS()
    if isinstance(given, TLS):
        return given
    _check_keys("tls", given, _TLS_KEYS)
    options: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items()
    }
    return TLS(**options)


def _check_tls(tls: TLS | None) -> None:
    if tls is None:
        return
    for name, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)):
        if path is not None and not Path(path).is_file():
            raise InvalidChannelLayerError(
                f"The Redis layer was given the TLS option {name} {path!r}: there is no such file."
            )
    try:
        tls.context.get_ca_certs()
    except (OSError, ssl.SSLError) as error:
        raise InvalidChannelLayerError(
            f"The Redis layer's TLS certificates cannot be loaded ({error}). Check the files of ca, cert and key."
        ) from error
