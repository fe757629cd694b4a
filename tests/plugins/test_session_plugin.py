"""channels-session-django as a plugin: what it registers, what it imports, what it has to say to settings."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import channels_session_django
from channels_core import Config
from channels_core.plugins import get_plugin_manager
from channels_session_django import session_for_reply_channel

pytest_plugins = ["testsite.databases"]


def python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env={}
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_it_registers_the_default_session_store(file_database: Path) -> None:
    from channels_session_django.store import DjangoSessionStore

    assert Config().session_store == "django"
    assert get_plugin_manager().load("session store", "django") is DjangoSessionStore


def test_listing_it_imports_no_django() -> None:
    code = "import channels_session_django.plugin, sys; print([m for m in sys.modules if m.split('.')[0] == 'django'])"
    assert python(code) == "[]"


def test_its_decorators_are_imported_and_applied_before_settings_exist() -> None:
    code = (
        "from channels_session_django import *\n"
        "import channels_session_django as plugin\n"
        "for name in plugin.__all__:\n"
        "    value = getattr(plugin, name)\n"
        "    assert callable(value) and value.__name__ == name, name\n"
        "@enforce_ordering\n"
        "@channel_and_http_session_user_from_http\n"
        "def consumer(message): ...\n"
        "from django.conf import settings\n"
        "print(settings.configured)\n"
    )
    assert python(code) == "False"


def test_everything_public_is_there_and_nothing_else_is_promised() -> None:
    assert sorted(channels_session_django.__all__) == channels_session_django.__all__
    with pytest.raises(AttributeError) as caught:
        channels_session_django.session_engine  # noqa: B018 - looking is what raises
    assert str(caught.value) == "module 'channels_session_django' has no attribute 'session_engine'"


@pytest.mark.parametrize(("chosen", "ids"), [({}, ["channels.W007"]), ({"SESSION_KEY_IN_URL": False}, [])])
def test_a_deploy_check_warns_while_session_keys_are_taken_from_urls(
    file_database: Path, chosen: dict[str, Any], ids: list[str]
) -> None:
    from django.test import override_settings

    from channels_django.checks import check_deployment

    with override_settings(CHANNELS=chosen):
        found = [warning for warning in check_deployment() if warning.id == "channels.W007"]
    assert [warning.id for warning in found] == ids
    for warning in found:
        assert warning.msg == (
            "CHANNELS['SESSION_KEY_IN_URL'] is on: @http_session takes a session key from the query string, and query"
            " strings end up in logs, histories and referrers, where a key is as good as a password."
        )
        assert warning.hint == (
            "Set CHANNELS = {'SESSION_KEY_IN_URL': False}; browsers send the session cookie by themselves."
        )


def test_the_setting_is_true_or_false(file_database: Path) -> None:
    from django.test import override_settings

    from channels_django import conf

    with override_settings(CHANNELS={"SESSION_KEY_IN_URL": "no"}):
        (problem,) = conf.find_problems()
    assert str(problem) == (
        "CHANNELS['SESSION_KEY_IN_URL'] is 'no' (str): it must be True or False. Correct it, or leave it out for the"
        " default, True."
    )


def test_a_store_is_made_once_and_anew_after_a_change_of_settings(file_database: Path) -> None:
    from django.test import override_settings

    from channels_core import channel_layers

    store = channel_layers.session_store
    assert channel_layers.session_store is store
    with override_settings(CHANNELS={"SESSION_STORE": "django"}):
        assert channel_layers.session_store is not store
    assert session_for_reply_channel("a!b").session_key == session_for_reply_channel("a!b").session_key
