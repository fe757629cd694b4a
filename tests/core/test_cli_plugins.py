"""`channels plugins`: what people and programs see of the installed plugins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from channels_core import Config
from channels_core.channel_layer import ChannelLayers
from channels_core.cli import Host, main
from channels_core.plugins import PluginManager

COMMAND = Path(sys.executable).with_name("channels")


def host_of(plugins: PluginManager) -> Host:
    return Host(layers=ChannelLayers(Config(), plugins=plugins), command=["channels"])


@pytest.fixture
def host(site):
    site.layer("acme-redis", "redis", version="2.0")
    site.layer("bolt-redis", "redis", version="0.3")
    site.layer("calm", "calm")
    site.plugin("daft", "import hiredis_of_old\n", entry="daft_layer")
    site.plugin("elder", "CHANNELS_API = 0\n")
    site.layer("fool", "fool")
    return host_of(site.manager(blocked=["fool", "fuul"]))


def test_the_table_shows_every_plugin_its_origin_and_its_state(host, capsys) -> None:
    assert main(["plugins"], host=host) == 0
    output = capsys.readouterr()
    assert output.out == (
        "NAME        KIND    DISTRIBUTION  VERSION  STATUS        REASON\n"
        "redis       layer   acme-redis    2.0      conflict      also registered by bolt-redis 0.3"
        " (entry point 'main')\n"
        "redis       layer   bolt-redis    0.3      conflict      also registered by acme-redis 2.0"
        " (entry point 'main')\n"
        "calm        layer   calm          1.0      ok\n"
        "daft_layer  plugin  daft          1.0      broken        it cannot be imported: ModuleNotFoundError: No module"
        " named 'hiredis_of_old'\n"
        "main        plugin  elder         1.0      incompatible  it was written for plugin API 0, and the installed"
        " channels-core has 1\n"
        "main        plugin  fool          1.0      blocked       it is named in Config.blocked_plugins\n"
    )
    assert output.err == "Blocked, but not installed: 'fuul'. Check its spelling.\n"


def test_json_has_the_same_for_programs(host, capsys) -> None:
    assert main(["plugins", "--json"], host=host) == 0
    lines = json.loads(capsys.readouterr().out)
    assert len(lines) == 6
    assert lines[2] == {
        "name": "calm",
        "kind": "layer",
        "distribution": "calm",
        "version": "1.0",
        "status": "ok",
        "reason": "",
    }
    assert {line["status"] for line in lines} == {"ok", "blocked", "broken", "conflict", "incompatible"}


def test_an_empty_list_says_what_to_do(site, capsys) -> None:
    assert main(["plugins"], host=host_of(site.manager())) == 0
    assert capsys.readouterr().out == "No plugins are installed: try 'pip install channels-layer-memory'.\n"


@pytest.mark.parametrize(
    "command", [[COMMAND], [sys.executable, "-m", "channels_core"]], ids=["script", "module"]
)
def test_the_installed_command_lists_the_first_party_plugins(command, tmp_path) -> None:
    run = subprocess.run(
        [*command, "plugins", "--json"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    lines = json.loads(run.stdout)
    assert {
        (line["kind"], line["name"], line["distribution"]) for line in lines if line["status"] == "ok"
    } >= {
        ("layer", "memory", "channels-layer-memory"),
        ("origin validator", "allowed-hosts", "channels-origin-allowed-hosts"),
        ("router", "regex", "channels-router-regex"),
        ("session store", "django", "channels-session-django"),
    }


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_block_list_of_the_configuration_counts(by, tmp_path) -> None:
    (tmp_path / "my_config.py").write_text(
        "from channels_core import Config\nconfig = Config(blocked_plugins=('regex',))\n"
    )
    environment = {**os.environ, **({"CHANNELS_CONFIG": "my_config:config"} if by == "environment" else {})}
    option = ["--config", "my_config:config"] if by == "option" else []
    run = subprocess.run(
        [COMMAND, *option, "plugins", "--json"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in json.loads(run.stdout) if line["distribution"] == "channels-router-regex"]
    assert (line["status"], line["reason"]) == ("blocked", "it is named in Config.blocked_plugins")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            None,
            "channels: The option --config names 'my_config:config', but there is no module 'my_config'.\n",
        ),
        (
            "configuration = 1",
            "channels: The option --config names 'my_config:config', but 'my_config' has no attribute 'config' (did you"
            " mean 'configuration'?).\n",
        ),
        (
            "1 / 0",
            "channels: The option --config names 'my_config:config', and importing it failed: ZeroDivisionError:"
            " division by zero.\n",
        ),
        (
            "config = 'redis'",
            "channels: The configuration of the channel layers is str: make it a channels_core.Config.\n",
        ),
    ],
)
def test_a_bad_configuration_is_an_error_in_one_line(source, text, tmp_path) -> None:
    if source is not None:
        (tmp_path / "my_config.py").write_text(source + "\n")
    run = subprocess.run(
        [COMMAND, "--config", "my_config:config", "plugins"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (1, "", text)


def test_wrong_usage_exits_with_2(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plugs"])
    assert caught.value.code == 2
    assert "invalid choice: 'plugs'" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(tmp_path) -> None:
    with subprocess.Popen(
        [COMMAND, "plugins"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1)
