"""Finds the Python blocks of a Markdown page and, run as a script, executes them in order.

A block's fence may say more than its language::

    ```python                       run, in a namespace of its own
    ```python continued             run, in the namespace of the block before it
    ```python raises=LookupError    run, and has to raise that (or a subclass of it)
    ```python file=shop/views.py    written to that file, for later blocks to import
    ```python files                 the same for several files, each begun by a comment such as "# shop/views.py"
    ```python pytest                a test module: run by pytest, and at least one test has to pass
    ```python no-run                only compiled, for what would not end or needs what a test cannot have

    ```python django                Django is set up first, with testsite.settings
    ```python django=shop.settings  ... or with these, which an earlier block wrote
    ```python layer                 the default channel layer is a fresh one in memory, without Django

The last three go together with the others. Each page has a process and an empty folder of its own, where its files
are, so pages cannot disturb one another; a block at whose top level there is an ``await`` gets an event loop. Blocks
inside an HTML comment are invisible to readers and are run like all others: a place for assertions.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import io
import json
import os
import re
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARKERS = {"continued", "raises", "file", "files", "pytest", "no-run", "django", "layer"}
TAKE_A_VALUE = {"raises": True, "file": True, "django": None}

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>```+|~~~+)(?P<info>[^`]*)$")
_FILE = re.compile(r"# (?P<path>[\w./-]+\.\w+)$")


class BadFence(Exception):
    """A fence that cannot be understood, or never ends."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of Python. ``line`` is that of its fence, from 1."""

    page: str
    line: int
    source: str
    markers: dict[str, str] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        return not self.markers.keys() & {"no-run", "file", "files"}

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def find_blocks(text: str, page: str) -> list[Block]:
    """The Python blocks of a page, in order."""
    blocks = []
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            continue
        language, _, info = opening["info"].strip().partition(" ")
        indent, body = len(opening["indent"]), []
        for _, inner in lines:
            closing = _FENCE.match(inner)
            if closing and not closing["info"].strip() and closing["fence"].startswith(opening["fence"]):
                break
            body.append(inner[indent:] if inner[:indent].isspace() or not indent else inner)
        else:
            raise BadFence(f"{page}:{number}: this block never ends.")
        if language == "python":
            markers = _markers(info, f"{page}:{number}")
            blocks.append(
                Block(page=page, line=number, source="".join(f"{part}\n" for part in body), markers=markers)
            )
    return blocks


def _markers(info: str, where: str) -> dict[str, str]:
    markers = {}
    for word in info.split():
        name, equals, value = word.partition("=")
        if name not in MARKERS:
            raise BadFence(
                f"{where}: there is no marker {name!r}. There are {', '.join(sorted(MARKERS))}: see"
                " tests/docs/code_blocks.py."
            )
        takes = TAKE_A_VALUE.get(name, False)
        if takes is not None and bool(equals and value) is not takes:
            raise BadFence(
                f"{where}: the marker {name!r} {'needs a value' if takes else 'takes no value'}: {word!r}."
            )
        markers[name] = value
    return markers


class Page:
    """Runs the blocks of one page, in this process, with the current folder for their files."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._namespace: dict[str, Any] = {}

    def run(self, block: Block) -> None:
        """Do with ``block`` what its markers say; raises where it does not do what it should."""
        if "layer" in block.markers:
            _set_up_layer()
        if "django" in block.markers:
            _set_up_django(block.markers["django"] or "testsite.settings")
        if "file" in block.markers:
            _write(block.markers["file"], block.source)
        elif "files" in block.markers:
            for path, source in _split(block):
                _write(path, source)
        elif "pytest" in block.markers:
            _run_tests(block)
        elif "no-run" in block.markers:
            self._compile(block)
        else:
            self._execute(block)

    def _compile(self, block: Block) -> Any:
        return compile(
            "\n" * block.line + block.source, self.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )

    def _execute(self, block: Block) -> None:
        if "continued" not in block.markers:
            module = type(sys)(f"page_line_{block.line}")  # decorators and pickles want to find a module
            sys.modules[module.__name__] = module
            self._namespace = vars(module)
        code = self._compile(block)
        expected = block.markers.get("raises")
        try:
            if code.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(code, self._namespace))
            else:
                exec(code, self._namespace)
        except Exception as exc:
            if expected is None or expected not in [kind.__name__ for kind in type(exc).__mro__]:
                raise
        else:
            if expected is not None:
                raise AssertionError(f"{block}: this block should have raised {expected}, and did not.")


def _write(name: str, source: str) -> None:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadFence(f"the file {name!r} is not inside the page's folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.parents[:-1]:  # the last is the page's own folder
        (folder / "__init__.py").touch()
    path.write_text(source)
    if path.suffix == ".py":
        compile(source, name, "exec")
        importlib.invalidate_caches()


def _split(block: Block) -> list[tuple[str, str]]:
    parts: list[tuple[str, list[str]]] = []
    for line in block.source.splitlines():
        header = _FILE.match(line)
        if header:
            parts.append((header["path"], []))
        elif parts:
            parts[-1][1].append(line)
        elif line.strip():
            raise BadFence(f"{block}: a block of files begins with a comment that names the first: # path.py")
    return [(path, "\n".join(lines).strip() + "\n") for path, lines in parts]


def _run_tests(block: Block) -> None:
    import pytest

    name = f"test_line_{block.line}.py"
    _write(name, block.source)
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:django",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "-o",
        "asyncio_mode=auto",
    ]
    options += ["-o", "asyncio_default_fixture_loop_scope=function", "--import-mode=importlib"]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main([*options, name])
    if code != 0 or "passed" not in output.getvalue():
        raise AssertionError(f"{block}: pytest ended with {code!r}:\n{output.getvalue()}")


def _set_up_django(settings: str) -> None:
    if os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings) != settings:
        raise BadFence(f"Django is set up once for a page, with {os.environ['DJANGO_SETTINGS_MODULE']}")
    import django
    from django.apps import apps
    from django.core.management import call_command

    if not apps.ready:
        django.setup()
        call_command("migrate", verbosity=0)


def _set_up_layer() -> None:
    from channels_core import Config, LayerConfig, channel_layers

    channel_layers.configure(Config(layers={"default": LayerConfig(backend="memory")}))


def main(page: str, results: str) -> None:
    """Run a page's blocks; write line -> traceback, empty where all went well, to ``results`` after each."""
    sys.path.insert(0, str(Path.cwd()))
    runner = Page(page)
    outcomes: dict[int, str] = {}
    for block in find_blocks(Path(page).read_text(), page):
        try:
            runner.run(block)
        except (Exception, SystemExit):  # noqa: BLE001 - a block may do anything, and the test tells
            outcomes[block.line] = traceback.format_exc()
        else:
            outcomes[block.line] = ""
        Path(results).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
