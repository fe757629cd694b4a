"""Every Python block of the READMEs, of CONTRIBUTING and of docs/ does what it says. code_blocks.py has the rules."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("code_blocks.py")
PAGES = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "channels_*/README.md", "plugins/*/README.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]

pytestmark = pytest.mark.timeout(150)


def load_runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("code_blocks", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["code_blocks"] = module
    spec.loader.exec_module(module)
    return module


code_blocks = load_runner()
BLOCKS = [block for page in PAGES for block in code_blocks.find_blocks((ROOT / page).read_text(), page)]


def run_page(page: Path, *, seconds: float = 120) -> dict[int, str]:
    """What became of each block of a page, by the line of its fence: nothing, or a traceback."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "CHANNELS"))
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "tests" / "site"), str(ROOT / "tests" / "thirdparty")]
    )
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        scratch = Path(folder) / "page"
        scratch.mkdir()
        run: subprocess.CompletedProcess[bytes] | None = None
        output: bytes | None
        try:
            run = subprocess.run(
                [sys.executable, str(RUNNER), str(page), str(results)],
                cwd=scratch,
                env=environment,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
            output = run.stdout
        except subprocess.TimeoutExpired as late:
            output = late.stdout
        found = json.loads(results.read_text()) if results.exists() else {}
    outcomes = {int(line): error for line, error in found.items()}
    ended = f"The page's process {'took too long' if run is None else f'ended with {run.returncode}'}"
    for block in code_blocks.find_blocks(page.read_text(), str(page)):
        outcomes.setdefault(
            block.line, f"{ended} before this block did:\n{(output or b'').decode(errors='replace')}"
        )
    return outcomes


@functools.cache
def outcomes_of(page: str) -> dict[int, str]:
    return run_page(ROOT / page)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_block_does_what_it_says(block: object) -> None:
    assert isinstance(block, code_blocks.Block)
    error = outcomes_of(block.page)[block.line]
    if error:
        pytest.fail(f"{block}\n{error}", pytrace=False)


def test_most_blocks_are_run() -> None:
    run = [block for block in BLOCKS if block.is_run]
    unrun = [str(block) for block in BLOCKS if "no-run" in block.markers]
    assert len(run) > 3 * len(unrun), unrun


# The runner itself


def outcomes(tmp_path: Path, text: str) -> list[str]:
    page = tmp_path / "page.md"
    page.write_text(text)
    found = run_page(page, seconds=20)
    return [found[line] for line in sorted(found)]


GOOD = """
```python
import chat_parts.deep.names
```

```python file=chat_parts/deep/names.py
NAME = "lobby"
```

- in a list

  ```python
  from chat_parts.deep.names import NAME

  assert NAME == "lobby"
  answer = 42
  ```

```console
$ not python
```

```python continued
assert answer == 42
```

```python raises=NameError
answer
```

```python raises=LookupError
{}["no such key"]
```

```python raises=LookupError
pass
```

```python raises=KeyError
1 / 0
```

```python
import asyncio
await asyncio.sleep(0)
assert asyncio.get_running_loop().is_running()
```

<!--
```python
assert False, "seen"
```
-->

~~~python no-run
while True: pass
~~~

```python no-run
while True
```

````python
text = '''
```python
'''
````

```python files
# shop/routing.py
routes = "of the shop"

# shop/names.txt
a
```

```python
from pathlib import Path

from shop.routing import routes

assert routes == "of the shop"
assert Path("shop/names.txt").read_text() == "a\\n"
```

```python files
x = 1
```

```python file=../outside.py
```
"""


def test_blocks_run_in_order_each_as_its_fence_says(tmp_path: Path) -> None:
    found = outcomes(tmp_path, GOOD)
    endings = [error.strip().splitlines()[-1] if error else "" for error in found]
    page = tmp_path / "page.md"
    no_error, no_header = (GOOD[: GOOD.index(source)].count("\n") for source in ("pass\n", "x = 1\n"))
    assert endings == [
        "ModuleNotFoundError: No module named 'chat_parts'",
        "",
        "",
        "",
        "",
        "",
        f"AssertionError: {page}:{no_error}: this block should have raised LookupError, and did not.",
        "ZeroDivisionError: division by zero",
        "",
        "AssertionError: seen",
        "",
        "SyntaxError: expected ':'",
        "",
        "",
        "",
        f"BadFence: {page}:{no_header}: a block of files begins with a comment that names the first: # path.py",
        "BadFence: the file '../outside.py' is not inside the page's folder",
    ]
    assert f'File "{page}", line 3, in <module>' in found[0]


DJANGO = """
```python django
from django.contrib.auth.models import User

assert User.objects.count() == 0
```

```python continued layer
from channels_core import Channel, channel_layers

Channel("chat").send({"text": "hi"})
assert channel_layers["default"].receive(["chat"])[1] == {"text": "hi"}
```

```python django=other.settings
```
"""


def test_django_and_a_layer_are_set_up_where_asked_for(tmp_path: Path) -> None:
    found = outcomes(tmp_path, DJANGO)
    assert found[:2] == ["", ""]
    assert found[2].endswith("BadFence: Django is set up once for a page, with testsite.settings\n")


TESTS = """
```python pytest
async def test_it():
    assert 1 + 1 == 2
```

```python pytest
def test_it():
    assert 1 + 1 == 3
```

```python pytest
def tset_it(): ...
```
"""


def test_tests_are_run_by_pytest(tmp_path: Path) -> None:
    good, bad, none = outcomes(tmp_path, TESTS)
    assert good == ""
    assert "assert (1 + 1) == 3" in bad
    assert "no tests ran" in none


ENDLESS = """
```python
done = True
```

```python
import os, sys
print("last words", flush=True)
os._exit(3)
```

```python
never = True
```
"""


def test_a_page_that_ends_early_fails_from_there_on(tmp_path: Path) -> None:
    done, gone, never = outcomes(tmp_path, ENDLESS)
    assert done == ""
    assert gone == never == "The page's process ended with 3 before this block did:\nlast words\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nx = 1\n", "page:1: this block never ends."),
        (
            "```python skip\n```\n",
            "page:1: there is no marker 'skip'. There are continued, django, file, files, layer, no-run, pytest,"
            " raises: see tests/docs/code_blocks.py.",
        ),
        ("```python file\n```\n", "page:1: the marker 'file' needs a value: 'file'."),
        ("```python no-run=later\n```\n", "page:1: the marker 'no-run' takes no value: 'no-run=later'."),
    ],
)
def test_fences_that_cannot_be_understood(text: str, error: str) -> None:
    with pytest.raises(code_blocks.BadFence) as caught:
        code_blocks.find_blocks(text, "page")
    assert str(caught.value) == error
