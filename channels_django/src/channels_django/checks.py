"""System checks: everything that can be known to be wrong before the first message.

``channels.E0xx`` stops the server, ``channels.W0xx`` does not. Each has a hint that says what to do; all are listed in
docs/reference/settings.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags
from django.core.checks import Warning as CheckWarning

from channels_core.channel_layer import channel_layers
from channels_core.credit import credit_patience
from channels_core.exceptions import ChannelsError
from channels_django import conf, old_backends

__all__ = ["TAG", "check_deployment", "check_settings", "register"]

TAG: Final = "channels"


def register() -> None:
    """Have Django run the checks of this module."""
    checks.register(check_settings, TAG)
    checks.register(check_deployment, TAG, Tags.security, deploy=True)


def check_settings(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """What is wrong in any environment."""
    return list(_all(app_configs))


def _all(app_configs: Sequence[AppConfig] | None) -> Iterator[CheckMessage]:
    yield from _runserver_owner()
    problems = list(conf.find_problems())
    for problem in problems:
        yield Error(problem.text, hint=problem.hint, id=problem.id)
    if problems:
        return
    yield from _old_backends()
    yield from _layers()
    yield from _order_of_frames()
    yield from _chosen_plugins()
    yield from _plugin_warnings()


def _runserver_owner() -> Iterator[CheckMessage]:
    """E001: Django takes a command from the first application that has it."""
    from pathlib import Path

    for app in apps.get_app_configs():
        if app.name == "channels_django":
            return
        if (Path(app.path) / "management" / "commands" / "runserver.py").exists():
            yield Error(
                f"{app.name!r} stands before 'channels_django' in INSTALLED_APPS and has a runserver command of its"
                " own, so channels' runserver, which serves WebSockets, is never run.",
                hint="Put 'channels_django' first in INSTALLED_APPS.",
                id="channels.E001",
            )
            return


def _old_backends() -> Iterator[CheckMessage]:
    for alias, entry in (getattr(settings, "CHANNEL_LAYERS", None) or {}).items():
        if old_backends.successor_of(entry) is not None:
            text, hint = old_backends.explain(alias, entry)
            yield CheckWarning(text, hint=hint, id="channels.W008")


def _layers() -> Iterator[CheckMessage]:
    aliases = list(channel_layers)
    if not aliases:
        yield CheckWarning(
            "CHANNEL_LAYERS is missing or empty: there are no consumers, and runserver is Django's own.",
            hint="Add CHANNEL_LAYERS = {'default': {'BACKEND': 'memory', 'ROUTING': 'mysite.routing.routes'}}.",
            id="channels.W001",
        )
    for alias in aliases:
        try:
            layer = channel_layers[alias]
        except ChannelsError as exc:
            yield Error(
                f"CHANNEL_LAYERS[{alias!r}] cannot be made into a layer: {exc}",
                hint="Correct its BACKEND, or the options in CONFIG.",
                id="channels.E007",
            )
            continue
        try:
            layer.router  # noqa: B018 - made when first looked at, and raises then
        except ChannelsError as exc:
            yield Error(
                f"CHANNEL_LAYERS[{alias!r}] has a bad ROUTING: {exc}",
                hint="Correct the routes, or ROUTER where they are for another router.",
                id="channels.E008",
            )


def _order_of_frames() -> Iterator[CheckMessage]:
    """W009: a frame that still waits on its channel is taken for lost, and the next one sent after it."""
    interface = channel_layers.config.interface
    try:
        backend = channel_layers[interface.layer].backend
    except (KeyError, ChannelsError):
        return  # there is none, or E007 says why
    patience = credit_patience(interface.credit_timeout, backend)
    if interface.credit_window == 1 and patience < backend.expiry:
        yield CheckWarning(
            f"CHANNELS['CREDIT_TIMEOUT'] is {interface.credit_timeout:g} seconds, and a frame may wait on the layer"
            f" {interface.layer!r} for {backend.expiry:g} (its expiry) until a worker takes it. Where workers are that"
            " far behind, frames count as lost that are only late, and frames of one socket may overtake each other.",
            hint=f"Make CREDIT_TIMEOUT at least {backend.expiry:g}, or CONFIG['expiry'] of the layer smaller.",
            id="channels.W009",
        )


def _chosen_plugins() -> Iterator[CheckMessage]:
    config = channel_layers.config
    plugins = channel_layers.plugins
    chosen: list[tuple[str, Any, str]] = [("SESSION_STORE", "session store", config.session_store)]
    if config.interface.origin_validator is not None:
        chosen.append(("ORIGIN_VALIDATOR", "origin validator", config.interface.origin_validator))
    chosen += [("CONSUMER_MIDDLEWARE", "consumer middleware", name) for name in config.worker.middleware]
    for key, kind, name in chosen:
        try:
            plugins.load(kind, name)
        except ChannelsError as exc:
            yield Error(
                f"CHANNELS[{key!r}] names something that cannot be used: {exc}",
                hint=f"Name an installed {kind}, or give a dotted path to one.",
                id="channels.E009",
            )


def _plugin_warnings() -> Iterator[CheckMessage]:
    """Plugins that are installed and cannot be used, whether or not anything asks for them yet."""
    for status in channel_layers.plugins.statuses():
        if status.status in ("broken", "incompatible", "conflict"):
            where = f"{status.distribution} {status.version}" if status.distribution else "no distribution"
            what = "plugin" if status.kind == "plugin" else status.kind
            yield CheckWarning(
                f"The {what} {status.name!r} of {where} is {status.status}: {status.reason}.",
                hint="Repair or uninstall it, or name it in CHANNELS['BLOCK_PLUGINS'].",
                id="channels.W002",
            )
    for name in channel_layers.plugins.unmatched_blocks:
        yield CheckWarning(
            f"{name!r} is blocked, and no installed plugin or distribution is called that.",
            hint="Correct it in CHANNELS['BLOCK_PLUGINS'] or CHANNELS_BLOCK_PLUGINS; `manage.py channels plugins` lists"
            " the names.",
            id="channels.W003",
        )


def check_deployment(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """What is wrong in production, run by ``manage.py check --deploy``."""
    return list(_deployment())


def _deployment() -> Iterator[CheckMessage]:
    if list(conf.find_problems()):
        return  # reported by check_settings
    config = channel_layers.config
    for alias in channel_layers:
        try:
            backend = channel_layers[alias].backend
        except ChannelsError:
            continue
        if backend.local_only:
            yield CheckWarning(
                f"The channel layer {alias!r} ({type(backend).__name__}) keeps its messages inside one process: a"
                " server and separate workers would not see each other's.",
                hint="Name a layer that reaches across processes as its BACKEND in CHANNEL_LAYERS.",
                id="channels.W004",
            )
    if config.interface.origin_validator is None:
        yield CheckWarning(
            "CHANNELS['ORIGIN_VALIDATOR'] is None: any web page can open a WebSocket here with your visitors' cookies.",
            hint="Leave it out, for 'allowed-hosts'; or check origins in every websocket.connect consumer, with"
            " allowed_hosts_only.",
            id="channels.W005",
        )
    if conf.http_mode() == "in-process":
        yield CheckWarning(
            "CHANNELS['HTTP'] is 'in-process': the server that holds the sockets runs your views, so a deploy of new"
            " code restarts it and closes every socket.",
            hint="Leave it out to have workers answer HTTP; or serve HTTP by another server, and silence this check.",
            id="channels.W006",
        )
    if conf.option_value("SESSION_KEY_IN_URL"):
        yield CheckWarning(
            "CHANNELS['SESSION_KEY_IN_URL'] is on: @http_session takes a session key from the query string, and query"
            " strings end up in logs, histories and referrers, where a key is as good as a password.",
            hint="Set CHANNELS = {'SESSION_KEY_IN_URL': False}; browsers send the session cookie by themselves.",
            id="channels.W007",
        )
