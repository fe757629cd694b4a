"""docs/reference/errors.md and the exceptions say the same: a section for each, one tree, the texts that are raised."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from channels_core import exceptions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md").read_text()
NAMES = exceptions.__all__
_LINE = re.compile(r"(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: \((?P<others>[\w, ]+)\))?(?:  .*)?")


def tree(text: str) -> dict[str, tuple[str | None, frozenset[str]]]:
    """Name -> parent and built-in bases, read from a drawing of branches."""
    found: dict[str, tuple[str | None, frozenset[str]]] = {}
    above: list[str] = []
    for line in text.splitlines():
        drawn = _LINE.fullmatch(line.strip("\n"))
        if drawn is None or (not drawn["branch"].strip() and drawn["name"] not in NAMES):
            continue
        depth = len(drawn["branch"]) // 4
        del above[depth:]
        others = frozenset(drawn["others"].split(", ") if drawn["others"] else ())
        found[drawn["name"]] = (above[-1] if above else None, others)
        above.append(drawn["name"])
    return found


def classes() -> dict[str, tuple[str | None, frozenset[str]]]:
    """The same, asked of the classes."""
    found = {}
    for name in NAMES:
        bases = getattr(exceptions, name).__bases__
        ours = [base.__name__ for base in bases if base.__module__ == exceptions.__name__]
        others = [base.__name__ for base in bases if base.__module__ == "builtins" and base is not Exception]
        found[name] = (ours[0] if ours else None, frozenset(others))
    return found


def test_the_tree_of_the_page_is_that_of_the_classes() -> None:
    drawing = PAGE.split("```text\n", 1)[1].split("```", 1)[0]
    assert tree(drawing) == classes()


def test_the_tree_of_the_docstring_is_that_of_the_classes() -> None:
    assert exceptions.__doc__ is not None
    drawing = "\n".join(line.removeprefix("    ") for line in exceptions.__doc__.splitlines())
    assert tree(drawing) == classes()


def test_every_exception_has_a_section_and_every_section_an_exception() -> None:
    assert sorted(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)) == sorted(NAMES)


def sections() -> list[tuple[str, str, str]]:
    """Exception, code that raises it, and the text that the page shows for it."""
    return re.findall(
        r"```python (?:layer )?raises=(\w+)\n((?:(?!```).)*)```\n\n```text\n(.*?)```", PAGE, re.DOTALL
    )


def test_texts_are_shown() -> None:
    assert len(sections()) >= 8


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """For each of the sections, name and text of the exception that its example ends with."""
    folder = tmp_path_factory.mktemp("errors")
    found = re.search(r"```python file=pigeons.py\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    (folder / "pigeons.py").write_text(found[1])
    (folder / "examples.json").write_text(json.dumps([code for _, code, _ in sections()]))
    run = subprocess.run(
        [sys.executable, "-c", RUN], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    errors: list[str] = json.loads(run.stdout)
    return errors


RUN = """
import ast, asyncio, inspect, json, sys
from channels_core import Config, LayerConfig, channel_layers

def error_of(code):
    sys.modules.pop("pigeons", None)
    channel_layers.configure(Config(layers={"default": LayerConfig(backend="memory")}))
    try:
        result = eval(compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

print(json.dumps([error_of(code) for code in json.load(open("examples.json"))]))
"""


@pytest.mark.parametrize("number", range(len(sections())), ids=[found[0] for found in sections()])
def test_a_text_on_the_page_is_what_its_example_raises(number: int, raised: list[str]) -> None:
    kind, _, text = sections()[number]
    name, _, said = raised[number].partition(": ")
    assert name == kind
    assert " ".join(said.split()) == " ".join(text.split())
