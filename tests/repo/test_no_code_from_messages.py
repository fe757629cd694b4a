"""What comes from outside is data: nothing that is shipped can turn bytes into code, as pickle on a bus can."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(
    path
    for folder in ("channels_core/src", "channels_django/src", "plugins", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
UNSAFE_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "yaml",
}
UNSAFE_CALLS = {"eval", "exec", "compile"}


def unsafe(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.partition(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNSAFE_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            found.append(node.func.id)
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_shipped_makes_code_of_bytes(path: Path) -> None:
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "line", ["import pickle", "from marshal import loads", "eval(text)", "import yaml.reader"]
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert len(unsafe(line)) == 1
