"""docs/reference/settings.md and the code say the same: keys, defaults, ids of checks."""

import ast
import re
from pathlib import Path

from channels_core.layers import LayerBackend
from channels_django import checks, conf

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "settings.md").read_text()


def section(title: str, level: int = 2) -> str:
    """What stands under a heading, up to the next of its level or above."""
    found = re.search(
        rf"^#{{{level}}} {re.escape(title)}\n(.*?)(?=^#{{1,{level}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None, title
    return found[1]


def rows(text: str) -> dict[str, str]:
    """First cell to second cell of the tables in ``text``, code marks taken off."""
    return dict(re.findall(r"^\| `([^`]+)` \| `?([^|]*?)`? \|", text, re.MULTILINE))


def test_every_key_is_documented_with_its_default_and_none_else() -> None:
    documented = {key: ast.literal_eval(default) for key, default in rows(section("`CHANNELS`")).items()}
    assert documented == {
        key: list(option.default) if isinstance(option.default, tuple) else option.default
        for key, option in conf.OPTIONS.items()
    }


def test_keys_stand_where_they_belong() -> None:
    places = {
        "The interface server": {
            key for key, option in conf.OPTIONS.items() if option.section == "interface"
        },
        "Workers": {key for key, option in conf.OPTIONS.items() if option.section == "worker"},
    }
    for title, keys in places.items():
        assert keys <= rows(section(title, 3)).keys(), title


def test_every_key_of_a_layer_is_documented() -> None:
    keys = re.findall(r"^\| `([A-Z_]+)` \|", section("`CHANNEL_LAYERS`"), re.MULTILINE)
    assert tuple(keys) == conf._LAYER_KEYS


def test_every_option_of_all_layers_is_documented() -> None:
    cells = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", section("`CHANNEL_LAYERS`"), re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"[a-z_]+", cell)}
    assert LayerBackend.__init__.__kwdefaults__ is not None
    assert documented == set(LayerBackend.__init__.__kwdefaults__)


def test_every_check_is_documented() -> None:
    sources = [Path(str(module.__file__)).read_text() for module in (checks, conf)]
    raised = {found for source in sources for found in re.findall(r'"(channels\.[EW]\d{3})"', source)}
    assert set(re.findall(r"^\| `(channels\.[EW]\d{3})` \|", PAGE, re.MULTILINE)) == raised
