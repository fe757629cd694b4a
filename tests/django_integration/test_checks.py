"""System checks: each id once, with its whole text and hint."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from channels_core import ConfigurationError, channel_layers
from channels_core.hookspecs import hookimpl
from channels_core.registrations import LayerRegistration
from channels_django import conf, old_backends
from channels_django.checks import TAG, check_deployment, check_settings

LAYERS: dict[str, Any] = {"default": {"BACKEND": "memory", "ROUTING": []}}


def found(messages: list[CheckMessage]) -> list[tuple[str | None, str, str | None]]:
    return [(message.id, message.msg, message.hint) for message in messages]


def check(**changes: Any) -> list[tuple[str | None, str, str | None]]:
    with override_settings(**{"CHANNEL_LAYERS": LAYERS, **changes}):
        return found(check_settings())


def check_deploy(**changes: Any) -> list[tuple[str | None, str, str | None]]:
    with override_settings(**{"CHANNEL_LAYERS": LAYERS, **changes}):
        return found(check_deployment())


def test_right_settings_pass() -> None:
    assert check() == []


def test_the_checks_are_registered() -> None:
    with override_settings(CHANNEL_LAYERS=LAYERS, CHANNELS={"THREADS": 0}):
        assert [message.id for message in run_checks(tags=[TAG])] == ["channels.E004"]


def test_e001_another_application_owns_runserver() -> None:
    others = [name for name in settings.INSTALLED_APPS if name != "channels_django"]
    assert check(INSTALLED_APPS=[*others, "channels_django"]) == [
        (
            "channels.E001",
            "'django.contrib.staticfiles' stands before 'channels_django' in INSTALLED_APPS and has a runserver command"
            " of its own, so channels' runserver, which serves WebSockets, is never run.",
            "Put 'channels_django' first in INSTALLED_APPS.",
        )
    ]


def test_e002_a_setting_is_no_dict() -> None:
    assert check(CHANNELS=["THREADS"]) == [
        ("channels.E002", "CHANNELS is ['THREADS'] (list), not a dict.", "Write CHANNELS = {...}.")
    ]


def test_e003_e004_options() -> None:
    messages = check(CHANNELS={"THREDS": 1, "THREADS": 0})
    assert [message[0] for message in messages] == ["channels.E003", "channels.E004"]
    assert messages[0][1] == "CHANNELS has the unknown key 'THREDS'."
    assert str(messages[0][2]).startswith("Did you mean 'THREADS'? The keys are: ")
    assert messages[1][1:] == (
        "CHANNELS['THREADS'] is 0 (int): it must be a whole number above 0.",
        "Correct it, or leave it out for the default, 1.",
    )


def test_e005_e006_layer_entries() -> None:
    messages = check(
        CHANNEL_LAYERS={"default": {"BACKEND": "memory"}, "old": {"BACKEND": "channels_redis.core.X"}}
    )
    assert messages == [
        (
            "channels.E005",
            "CHANNEL_LAYERS['default'] has no ROUTING, so no worker could serve it.",
            "Give it a list of routes, or the dotted path to one, such as 'mysite.routing.routes'.",
        ),
        (
            "channels.E006",
            "CHANNEL_LAYERS['old'] has BACKEND 'channels_redis.core.X', a layer of Channels 2 to 4, which has another"
            " contract.",
            "Write {'BACKEND': 'redis', 'ROUTING': 'mysite.routing.routes'} instead; the options in CONFIG have other"
            " names too.",
        ),
    ]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            {"BACKEND": "memroy", "ROUTING": []},
            "No plugin registers a layer named 'memroy'. Installed: database, memory, redis. Did you mean 'memory'?",
        ),
        (
            {"BACKEND": "memory", "ROUTING": [], "CONFIG": {"delivery": {"chat.*": "exactly-once"}}},
            "The channel layer 'default' (MemoryBackend): Option delivery['chat.*'] is 'exactly-once'; the delivery"
            " classes are: at-most-once, at-least-once.",
        ),
        (
            {"BACKEND": "memory", "ROUTING": [], "CONFIG": {"capacity": "many"}},
            "The channel layer 'default' (MemoryBackend): Option capacity is 'many': it must be an integer of at"
            " least 1.",
        ),
    ],
)
def test_e007_a_layer_that_cannot_be_made(entry: dict[str, Any], reason: str) -> None:
    assert check(CHANNEL_LAYERS={"default": entry}) == [
        (
            "channels.E007",
            f"CHANNEL_LAYERS['default'] cannot be made into a layer: {reason}",
            "Correct its BACKEND, or the options in CONFIG.",
        )
    ]


def test_e008_bad_routing() -> None:
    ((id, text, hint),) = check(
        CHANNEL_LAYERS={"default": {"BACKEND": "memory", "ROUTING": "no.such.routes"}}
    )
    assert id == "channels.E008"
    assert text.startswith("CHANNEL_LAYERS['default'] has a bad ROUTING: ")
    assert "'no.such.routes'" in text
    assert hint == "Correct the routes, or ROUTER where they are for another router."


def test_e009_plugins_that_cannot_be_used() -> None:
    messages = check(
        CHANNELS={
            "SESSION_STORE": "notebook",
            "ORIGIN_VALIDATOR": "allowed-host",
            "CONSUMER_MIDDLEWARE": ["timing"],
        }
    )
    assert messages == [
        (
            "channels.E009",
            "CHANNELS['SESSION_STORE'] names something that cannot be used: No plugin registers a session store named"
            " 'notebook'. Installed: django.",
            "Name an installed session store, or give a dotted path to one.",
        ),
        (
            "channels.E009",
            "CHANNELS['ORIGIN_VALIDATOR'] names something that cannot be used: No plugin registers an origin validator"
            " named 'allowed-host'. Installed: allowed-hosts. Did you mean 'allowed-hosts'?",
            "Name an installed origin validator, or give a dotted path to one.",
        ),
        (
            "channels.E009",
            "CHANNELS['CONSUMER_MIDDLEWARE'] names something that cannot be used: No plugin registers a consumer"
            " middleware named 'timing'. Installed: none.",
            "Name an installed consumer middleware, or give a dotted path to one.",
        ),
    ]


def test_w001_no_layers() -> None:
    assert check(CHANNEL_LAYERS={}) == [
        (
            "channels.W001",
            "CHANNEL_LAYERS is missing or empty: there are no consumers, and runserver is Django's own.",
            "Add CHANNEL_LAYERS = {'default': {'BACKEND': 'memory', 'ROUTING': 'mysite.routing.routes'}}.",
        )
    ]


class SecondMemory:
    @staticmethod
    @hookimpl
    def channels_register_layers() -> list[LayerRegistration]:
        return [LayerRegistration(name="pigeon", target="pigeons:Backend")]


class Broken:
    @staticmethod
    @hookimpl
    def channels_register_layers() -> list[LayerRegistration]:
        raise RuntimeError("out of pigeons")


def test_w002_w003_plugins_nobody_asked_for_yet() -> None:
    # A block list of its own has a plugin manager of its own.
    chosen = {"BLOCK_PLUGINS": ["carrier-piegon"]}
    with override_settings(CHANNEL_LAYERS=LAYERS, CHANNELS=chosen):
        channel_layers.plugins.register(SecondMemory, name="pigeons")
        channel_layers.plugins.register(SecondMemory(), name="doves")
        channel_layers.plugins.register(Broken, name="broken")
        messages = found(check_settings())
    hint = "Repair or uninstall it, or name it in CHANNELS['BLOCK_PLUGINS']."
    assert [message[0] for message in messages] == ["channels.W002"] * 3 + ["channels.W003"]
    assert messages[0][1].startswith("The layer 'pigeon' of no distribution is conflict: also registered by ")
    assert messages[2][1].startswith("The plugin 'broken' of no distribution is broken: ")
    assert {message[2] for message in messages[:3]} == {hint}
    assert messages[3][1:] == (
        "'carrier-piegon' is blocked, and no installed plugin or distribution is called that.",
        "Correct it in CHANNELS['BLOCK_PLUGINS'] or CHANNELS_BLOCK_PLUGINS; `manage.py channels plugins` lists the"
        " names.",
    )


def test_w004_a_local_layer_in_production() -> None:
    assert check_deploy(CHANNELS={"SESSION_KEY_IN_URL": False}) == [
        (
            "channels.W004",
            "The channel layer 'default' (MemoryBackend) keeps its messages inside one process: a server and separate"
            " workers would not see each other's.",
            "Name a layer that reaches across processes as its BACKEND in CHANNEL_LAYERS.",
        )
    ]


def test_w005_w006_what_gives_up_protection_or_the_promise() -> None:
    messages = check_deploy(CHANNELS={"ORIGIN_VALIDATOR": None, "HTTP": "in-process"})
    assert messages[1:3] == [
        (
            "channels.W005",
            "CHANNELS['ORIGIN_VALIDATOR'] is None: any web page can open a WebSocket here with your visitors' cookies.",
            "Leave it out, for 'allowed-hosts'; or check origins in every websocket.connect consumer, with"
            " allowed_hosts_only.",
        ),
        (
            "channels.W006",
            "CHANNELS['HTTP'] is 'in-process': the server that holds the sockets runs your views, so a deploy of new"
            " code restarts it and closes every socket.",
            "Leave it out to have workers answer HTTP; or serve HTTP by another server, and silence this check.",
        ),
    ]


def test_w007_session_keys_in_addresses() -> None:
    assert check_deploy()[1:] == [
        (
            "channels.W007",
            "CHANNELS['SESSION_KEY_IN_URL'] is on: @http_session takes a session key from the query string, and query"
            " strings end up in logs, histories and referrers, where a key is as good as a password.",
            "Set CHANNELS = {'SESSION_KEY_IN_URL': False}; browsers send the session cookie by themselves.",
        )
    ]


def test_w008_a_layer_of_channels_1_has_a_successor() -> None:
    entry = {
        "BACKEND": "asgiref.inmemory.ChannelLayer",
        "ROUTING": [],
        "CONFIG": {"capacity": 7, "unheard_of": 1},
        "TEST_CONFIG": {"expiry": 5},
    }
    assert check(CHANNEL_LAYERS={"default": entry}) == [
        (
            "channels.W008",
            "CHANNEL_LAYERS['default'] has BACKEND 'asgiref.inmemory.ChannelLayer', a layer of Channels 1.x; the layer"
            " 'memory' takes its place. Its options unheard_of have no meaning any more.",
            "Write {'BACKEND': 'memory', 'CONFIG': {'capacity': ...}, 'ROUTING': ...} instead.",
        )
    ]
    with override_settings(CHANNEL_LAYERS={"default": entry}):
        assert channel_layers["default"].capacity == 7
        assert channel_layers.make("default", for_test=True).expiry == 5


def test_w009_frames_that_wait_longer_than_the_interface_does() -> None:
    options: dict[str, Any] = {"expiry": 20.5}
    layers = {"default": {"BACKEND": "memory", "ROUTING": [], "CONFIG": options}}
    assert check(CHANNEL_LAYERS=layers, CHANNELS={"CREDIT_TIMEOUT": 20}) == [
        (
            "channels.W009",
            "CHANNELS['CREDIT_TIMEOUT'] is 20 seconds, and a frame may wait on the layer 'default' for 20.5 (its"
            " expiry) until a worker takes it. Where workers are that far behind, frames count as lost that are only"
            " late, and frames of one socket may overtake each other.",
            "Make CREDIT_TIMEOUT at least 20.5, or CONFIG['expiry'] of the layer smaller.",
        )
    ]
    assert check(CHANNEL_LAYERS=layers, CHANNELS={"CREDIT_TIMEOUT": 20.5}) == []
    assert check(CHANNEL_LAYERS=layers, CHANNELS={"CREDIT_TIMEOUT": 20, "CREDIT_WINDOW": 2}) == []
    options["delivery"] = {"websocket.*": "at-least-once"}  # every attempt has its time
    assert check(CHANNEL_LAYERS=layers, CHANNELS={"CREDIT_TIMEOUT": 20}) == []


REDIS_OPTIONS = {
    "hosts": [("localhost", 6379)],
    "prefix": "site:",
    "symmetric_encryption_keys": ["key"],
    "capacity": 5,
    "stats_prefix": "gone",
}


@pytest.mark.parametrize(
    ("backend", "now", "config"),
    [
        (
            "asgi_redis.RedisChannelLayer",
            "redis",
            {
                "hosts": [("localhost", 6379)],
                "prefix": "site",
                "symmetric_encryption_keys": ["key"],
                "capacity": 5,
            },
        ),
        (
            "asgi_redis.RedisSentinelChannelLayer",
            "redis",
            {
                "sentinels": [("localhost", 6379)],
                "master_name": "mymaster",
                "prefix": "site",
                "symmetric_encryption_keys": ["key"],
                "capacity": 5,
            },
        ),
        ("asgi_ipc.IPCChannelLayer", "database", {"capacity": 5}),
        ("memory", "memory", {**REDIS_OPTIONS, "services": ["mymaster"]}),
    ],
)
def test_old_layers_and_their_options_are_translated(backend: str, now: str, config: dict[str, Any]) -> None:
    entry = {"BACKEND": backend, "ROUTING": [], "CONFIG": {**REDIS_OPTIONS, "services": ["mymaster"]}}
    assert old_backends.translate(entry) == {"BACKEND": now, "ROUTING": [], "CONFIG": config}


def test_e010_two_distributions_own_the_name_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("channels", "4.3.1"), ("channels-compat", "0.1.0")):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert check() == [
        (
            "channels.E010",
            "The distributions channels 4.3.1 and channels-compat 0.1.0 are both installed, and both own the import"
            " package 'channels': the later one has overwritten files of the other.",
            "Uninstall both, then install one: channels-compat runs applications written for Channels 1.x, channels"
            " those written for Channels 2 to 4.",
        )
    ]
    with pytest.raises(ConfigurationError, match="are both installed"):
        conf.load_config()
