"""Third parties come in by the same door as first parties: an entry point, a name in the configuration."""

from pathlib import Path

import pytest

from channels_core import Message
from channels_core.plugins import PluginManager
from intranet.origins import IntranetOnly
from table_router.router import TableRouter


@pytest.fixture
def manager(tmp_path: Path) -> PluginManager:
    for distribution in ("table-router", "intranet"):
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        module = distribution.replace("-", "_")
        (info / "entry_points.txt").write_text(f"[channels_core]\n{module} = {module}.plugin\n")
    return PluginManager(search_path=[str(tmp_path)], environ={})


def consumer(message: Message) -> None: ...


def test_a_third_partys_router_is_chosen_by_its_name(manager: PluginManager) -> None:
    router = manager.load("router", "table")({"chat": consumer})
    assert isinstance(router, TableRouter)
    assert router.match(Message({}, "chat", None)) == (consumer, {})
    assert [entry.name for entry in manager.registered("router")] == ["table"]


def test_a_third_partys_origin_validator_is_chosen_by_its_name(manager: PluginManager) -> None:
    validator = manager.load("origin validator", "intranet")()
    assert isinstance(validator, IntranetOnly)
    assert validator.is_allowed("https://wiki.intranet.example", None)
