"""From settings to configuration: every key is read, and every wrong one is told what to do."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from channels_core import ConfigurationError, InvalidChannelLayerError, channel_layers
from channels_django import conf

LAYERS = {"default": {"BACKEND": "memory", "ROUTING": []}}


def test_settings_become_the_configuration_record() -> None:
    entry = {
        "BACKEND": "memory",
        "ROUTING": ["a route"],
        "CONFIG": {"capacity": 7},
        "TEST_CONFIG": {"capacity": 2},
        "ROUTER": "mine",
    }
    chosen = {
        "LAYER": "other",
        "HTTP_TIMEOUT": 7,
        "WEBSOCKET_PROTOCOLS": ["chat", "echo"],
        "ORIGIN_VALIDATOR": None,
        "THREADS": 3,
        "CONSUMER_MIDDLEWARE": ["timing"],
        "SESSION_STORE": "notebook",
        "BLOCK_PLUGINS": ["redis"],
        "HTTP": "in-process",
    }
    with override_settings(CHANNEL_LAYERS={"other": entry}, CHANNELS=chosen):
        config = conf.load_config()
        assert conf.http_mode() == "in-process"
    other = config.layers["other"]
    assert (other.backend, other.routing, other.config, other.test_config, other.router) == (
        "memory",
        ["a route"],
        {"capacity": 7},
        {"capacity": 2},
        "mine",
    )
    assert config.interface.layer == "other"
    assert config.interface.http_timeout == 7
    assert config.interface.websocket_protocols == ("chat", "echo")
    assert config.interface.origin_validator is None
    assert config.worker.threads == 3
    assert config.worker.middleware == ("timing",)
    assert config.session_store == "notebook"
    assert config.blocked_plugins == ("redis",)


def test_defaults_are_those_of_the_core() -> None:
    with override_settings(CHANNEL_LAYERS=LAYERS):
        config = conf.load_config()
    assert config.interface.http_timeout == 120.0
    assert config.worker.threads == 1
    assert config.session_store == "django"
    assert conf.http_mode() == "layer"


def test_the_subprotocols_of_channels_1_are_read() -> None:
    with override_settings(CHANNEL_LAYERS=LAYERS, CHANNELS_WS_PROTOCOLS=["graphql-ws"]):
        assert conf.load_config().interface.websocket_protocols == ("graphql-ws",)
    with override_settings(
        CHANNEL_LAYERS=LAYERS,
        CHANNELS_WS_PROTOCOLS=["graphql-ws"],
        CHANNELS={"WEBSOCKET_PROTOCOLS": ["chat"]},
    ):
        assert conf.load_config().interface.websocket_protocols == ("chat",)


def test_override_settings_makes_the_layers_anew() -> None:
    first = channel_layers["default"]
    with override_settings(
        CHANNEL_LAYERS={"default": {"BACKEND": "memory", "ROUTING": [], "CONFIG": {"capacity": 3}}}
    ):
        assert channel_layers["default"].capacity == 3
    assert channel_layers["default"] is not first
    assert channel_layers["default"].capacity == first.capacity


def test_configuring_twice_keeps_the_layers() -> None:
    first = channel_layers["default"]
    conf.configure()
    assert channel_layers["default"] is first


KEYS = ", ".join(sorted(conf.OPTIONS))


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (
            {"HTTP_TIMEOUT": -1},
            "CHANNELS['HTTP_TIMEOUT'] is -1 (int): it must be a number above 0."
            " Correct it, or leave it out for the default, 120.0.",
        ),
        (
            {"HTTP_TIMEOUT": float("nan")},
            "CHANNELS['HTTP_TIMEOUT'] is nan (float): it must be a number above 0."
            " Correct it, or leave it out for the default, 120.0.",
        ),
        (
            {"THREADS": 1.5},
            "CHANNELS['THREADS'] is 1.5 (float): it must be a whole number above 0."
            " Correct it, or leave it out for the default, 1.",
        ),
        (
            {"THREADS": True},
            "CHANNELS['THREADS'] is True (bool): it must be a whole number above 0."
            " Correct it, or leave it out for the default, 1.",
        ),
        (
            {"MESSAGE_RETRIES": -1},
            "CHANNELS['MESSAGE_RETRIES'] is -1 (int): it must be a whole number of at least 0."
            " Correct it, or leave it out for the default, 10.",
        ),
        (
            {"MAX_BODY_SIZE": "1 MB"},
            "CHANNELS['MAX_BODY_SIZE'] is '1 MB' (str): it must be a whole number above 0 or None."
            " Correct it, or leave it out for the default, None.",
        ),
        (
            {"HTTP": "inprocess"},
            "CHANNELS['HTTP'] is 'inprocess' (str): it must be 'layer' or 'in-process'."
            " Correct it, or leave it out for the default, 'layer'.",
        ),
        (
            {"WEBSOCKET_PROTOCOLS": "chat"},
            "CHANNELS['WEBSOCKET_PROTOCOLS'] is 'chat' (str): it must be a list of text."
            " Correct it, or leave it out for the default, [].",
        ),
        (
            {"SESSION_STORE": 3},
            "CHANNELS['SESSION_STORE'] is 3 (int): it must be text."
            " Correct it, or leave it out for the default, 'django'.",
        ),
        (
            {"HTTP_TIMEOTU": 5},
            "CHANNELS has the unknown key 'HTTP_TIMEOTU'. Did you mean 'HTTP_TIMEOUT'? The keys are: "
            + KEYS
            + ".",
        ),
        (
            {"http_timeout": 5},
            "CHANNELS has the unknown key 'http_timeout'. Did you mean 'HTTP_TIMEOUT'? The keys are: "
            + KEYS
            + ".",
        ),
        (
            {"LAYER": "defualt"},
            "CHANNELS['LAYER'] is 'defualt', which CHANNEL_LAYERS does not have."
            " Did you mean 'default'? CHANNEL_LAYERS has: default.",
        ),
    ],
)
def test_a_wrong_option_says_what_it_must_be(chosen: dict[str, Any], text: str) -> None:
    with override_settings(CHANNEL_LAYERS=LAYERS, CHANNELS=chosen):
        with pytest.raises(ConfigurationError) as caught:
            conf.load_config()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "chosen", [{"MESSAGE_RETRIES": 0}, {"WEBSOCKET_SEND_TIMEOUT": 0}, {"MAX_BODY_SIZE": None}]
)
def test_the_edges_of_a_range_are_inside(chosen: dict[str, Any]) -> None:
    with override_settings(CHANNEL_LAYERS=LAYERS, CHANNELS=chosen):
        conf.load_config()
    assert list(conf.find_problems()) == []


def test_every_default_is_a_right_value() -> None:
    chosen = {key: option.default for key, option in conf.OPTIONS.items()}
    with override_settings(CHANNEL_LAYERS=LAYERS, CHANNELS=chosen):
        assert conf.load_config().interface.layer == "default"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            {"ROUTING": []},
            "CHANNEL_LAYERS['default'] has no BACKEND."
            " Name an installed layer, such as 'memory', or give the dotted path to a backend class.",
        ),
        (
            {"BACKEND": 5, "ROUTING": []},
            "CHANNEL_LAYERS['default']['BACKEND'] is 5 (int)."
            " Name an installed layer, such as 'memory', or give the dotted path to a backend class.",
        ),
        (
            {"BACKEND": "memory"},
            "CHANNEL_LAYERS['default'] has no ROUTING, so no worker could serve it."
            " Give it a list of routes, or the dotted path to one, such as 'mysite.routing.routes'.",
        ),
        (
            {"BACKEND": "memory", "ROUTING": [], "capacity": 5},
            "CHANNEL_LAYERS['default'] has the unknown key 'capacity'."
            " The keys are: BACKEND, ROUTING, CONFIG, TEST_CONFIG, ROUTER; what the backend itself takes goes into"
            " CONFIG.",
        ),
        (
            {"BACKEND": "memory", "ROUTING": [], "CONFG": {}},
            "CHANNEL_LAYERS['default'] has the unknown key 'CONFG'. Did you mean 'CONFIG'?"
            " The keys are: BACKEND, ROUTING, CONFIG, TEST_CONFIG, ROUTER; what the backend itself takes goes into"
            " CONFIG.",
        ),
        (
            {"BACKEND": "memory", "ROUTING": [], "CONFIG": [5]},
            "CHANNEL_LAYERS['default']['CONFIG'] is [5] (list): it must be a dict of the backend's options."
            " Write {'capacity': 200}, for example.",
        ),
        (
            {"BACKEND": "memory", "ROUTING": [], "ROUTER": None},
            "CHANNEL_LAYERS['default']['ROUTER'] is None (NoneType): it must be text."
            " Name an installed router, such as 'regex', or leave it out.",
        ),
        (
            "memory",
            "CHANNEL_LAYERS['default'] is 'memory' (str), not a dict."
            " Write {'BACKEND': 'memory', 'ROUTING': 'mysite.routing.routes'}, for example.",
        ),
        (
            {
                "BACKEND": "channels_redis.core.RedisChannelLayer",
                "CONFIG": {"hosts": [("127.0.0.1", 6379)]},
            },
            "CHANNEL_LAYERS['default'] has BACKEND 'channels_redis.core.RedisChannelLayer', a layer of Channels 2 to 4,"
            " which has another contract. Write {'BACKEND': 'redis', 'ROUTING': 'mysite.routing.routes'} instead; the"
            " options in CONFIG have other names too.",
        ),
        (
            {"BACKEND": "channels.layers.InMemoryChannelLayer"},
            "CHANNEL_LAYERS['default'] has BACKEND 'channels.layers.InMemoryChannelLayer', a layer of Channels 2 to 4,"
            " which has another contract. Write {'BACKEND': 'memory', 'ROUTING': 'mysite.routing.routes'} instead; the"
            " options in CONFIG have other names too.",
        ),
    ],
)
def test_a_wrong_layer_entry_says_what_to_write(entry: Any, text: str) -> None:
    with override_settings(CHANNEL_LAYERS={"default": entry}):
        with pytest.raises(InvalidChannelLayerError) as caught:
            conf.load_config()
    assert str(caught.value) == text


def test_settings_that_are_no_dicts_are_named() -> None:
    with override_settings(CHANNEL_LAYERS=["memory"]):
        with pytest.raises(ConfigurationError) as caught:
            conf.load_config()
    assert (
        str(caught.value) == "CHANNEL_LAYERS is ['memory'] (list), not a dict. Write CHANNEL_LAYERS = {...}."
    )


def test_an_unknown_alias_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="No channel layer has the alias 'other'"):
        channel_layers["other"]
    assert "other" not in channel_layers
    assert "default" in channel_layers


def test_reading_the_settings_sets_django_up_no_further() -> None:
    code = (
        "from channels_django import conf; from channels_core import channel_layers; conf.configure();"
        " channel_layers['default'].send('x', {}); from django.apps import apps; import sys;"
        " assert not apps.ready and not apps.app_configs; assert 'testsite.routing' not in sys.modules;"
        " assert 'django.db.models' not in sys.modules; print('free')"
    )
    site = Path(__file__).parent.parent / "site"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "testsite.settings", "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("free\n", "")
