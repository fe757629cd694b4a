"""Each hook is documented, with its signature and a whole plugin, and each is tested by its name."""

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from channels_core import hookspecs, registrations
from channels_core.plugins import PluginManager

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "hooks.md").read_text()
HOOKS: dict[str, Callable[..., Any]] = {
    name: value
    for name, value in vars(hookspecs).items()
    if name.startswith("channels_") and inspect.isfunction(value)
}
RECORDS = {record.__name__: record for record in registrations.Registration.__subclasses__()}


def section(hook: str) -> str:
    found = re.search(rf"^## {hook}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/reference/hooks.md has no section '## {hook}'"
    return found[1]


def record_of(hook: str) -> type[registrations.Registration]:
    annotation = str(HOOKS[hook].__annotations__["return"])
    return RECORDS[annotation.removeprefix("Iterable[").removesuffix("]")]


def test_these_are_the_hooks_that_plugins_are_asked_for() -> None:
    manager = PluginManager(search_path=[])
    known = [name for name in dir(manager._pluggy.hook) if name.startswith("channels_")]
    assert sorted(HOOKS) == sorted(known)
    assert len(HOOKS) == len(RECORDS) == 5
    assert sorted(HOOKS) == sorted(name for name in hookspecs.__all__ if name.startswith("channels_"))


def test_no_section_is_about_a_hook_that_does_not_exist() -> None:
    assert re.findall(r"^## (channels_\w+)$", PAGE, re.MULTILINE) == list(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_signature_is_documented(hook: str) -> None:
    signature = str(inspect.signature(HOOKS[hook])).replace("'", "")
    assert f"```text\n{hook}{signature}\n```" in section(hook)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_whole_plugin_is_shown(hook: str) -> None:
    files = re.findall(r"^```python file=(\S+)\n(.*?)^```$", section(hook), re.MULTILINE | re.DOTALL)
    (plugin,) = [source for path, source in files if path.endswith("/plugin.py")]
    assert f"@hookimpl\ndef {hook}():" in plugin
    assert f"yield {record_of(hook).__name__}(" in plugin
    found = re.search(r'target="(?P<module>[\w.]+):(?P<name>\w+)"', plugin)
    assert found is not None
    targets = {path: source for path, source in files if not path.endswith("/plugin.py")}
    assert f"class {found['name']}(" in targets[found["module"].replace(".", "/") + ".py"]


@pytest.mark.parametrize("hook", HOOKS)
def test_the_specification_says_when_it_is_asked_and_shows_an_example(hook: str) -> None:
    docstring = inspect.getdoc(HOOKS[hook])
    assert docstring is not None
    assert "; asked once, " in docstring.splitlines()[0]
    assert f"def {hook}():" in docstring
    assert f"yield {record_of(hook).__name__}(" in docstring


def test_every_field_of_the_records_is_documented() -> None:
    records = re.search(r"^## Records$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    assert records is not None
    for record in RECORDS.values():
        assert re.findall(r"^\| `(\w+)` \|", records[1], re.MULTILINE) == [
            field.name for field in fields(record)
        ]


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_tested_by_name(hook: str) -> None:
    named = [
        f"{path.name}::{node.name}"
        for path in sorted((ROOT / "tests" / "core").glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(f"test_{hook}")
    ]
    assert named, f"no test in tests/core/ is called test_{hook}..."
