"""Rules of the tree that no linter knows."""

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from testsite.fixtures import set_up_django

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "base.py", "misc.py"}
LOCK_FILES = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "pylock.toml", "package-lock.json"}
GENERATED = {
    *(path.name for path in ROOT.glob(".venv*")),
    *(
        ".git",
        ".venvs",
        "__pycache__",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        "build",
        "dist",
    ),
}
SUPPRESSION = re.compile(
    r"#\s*(?:type:\s*ignore|noqa)(?P<code>\[[^\]]+\]|:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?(?P<rest>.*)$"
)
REASON = re.compile(r"\s+[-#]\s*\w.*")


def tracked() -> list[Path]:
    """The files of the checkout: those git tracks, and new ones it does not ignore; all, where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return [path for path in ROOT.rglob("*") if path.is_file() and not GENERATED & set(path.parts[:-1])]
    return [ROOT / name for name in output.split("\0") if name and (ROOT / name).is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix == ".py" and "src" in path.relative_to(ROOT).parts[:3]]
TESTS = [path for path in FILES if path.suffix == ".py" and path.relative_to(ROOT).parts[0] == "tests"]


def relative(paths: list[Path]) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    dotted = list(parts[parts.index("src") + 1 :])
    dotted[-1] = dotted[-1].removesuffix(".py")
    return ".".join(dotted[:-1] if dotted[-1] == "__init__" else dotted)


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 10
    assert Path(__file__) in TESTS


def test_no_lock_files() -> None:
    assert relative([path for path in FILES if path.name in LOCK_FILES]) == []


def test_tests_are_no_packages_and_have_unique_names() -> None:
    assert relative([path for path in TESTS if path.name == "__init__.py"]) == []
    names = Counter(path.name for path in TESTS if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_test_folder_is_named_after_a_package() -> None:
    packages = {module_name(path).partition(".")[0] for path in SOURCES}
    folders = {part for path in TESTS for part in path.relative_to(ROOT).parts[:-1]}
    assert packages & folders == set()


def test_files_are_named_after_what_they_are_about() -> None:
    own = [
        path for path in SOURCES if "channels-compat" not in path.parts
    ]  # whose names are those of Channels 1.x
    assert relative([path for path in own if path.name in FORBIDDEN_NAMES]) == []


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    silent, closed = [], []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        names |= {
            node.target.id
            for node in tree.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        if ast.get_docstring(tree) is None:
            silent.append(path)
        if "__all__" not in names and path.name == "__init__.py":
            closed.append(path)
    assert relative(silent) == []
    assert relative(closed) == [], "these packages have no __all__"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=module_name)
def test_every_exported_name_exists(path: Path) -> None:
    set_up_django()  # without it, nobody can have a model
    module = importlib.import_module(module_name(path))
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_suppressions_name_their_rule_and_their_reason() -> None:
    bad = []
    for path in SOURCES + TESTS:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = SUPPRESSION.search(line)
            if found is not None and not (found["code"] and REASON.fullmatch(found["rest"])):
                bad.append(f"{path.relative_to(ROOT)}:{number}")
    assert bad == [], "name the code and, after another '#' or a '-', the reason"


def imported_by(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def test_only_test_kits_import_pytest_or_hypothesis() -> None:
    outside = [path for path in SOURCES if "testing" not in path.parts]
    assert (
        relative([path for path in outside if imported_by(path) & {"pytest", "_pytest", "hypothesis"}]) == []
    )


def plugin_modules() -> list[Path]:
    return [path for path in SOURCES if path.name == "plugin.py"]


@pytest.mark.parametrize("path", plugin_modules(), ids=module_name)
def test_a_plugin_module_imports_only_the_core_and_the_standard_library(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "channels_core"}
    assert imported_by(path) - allowed == set()


@pytest.mark.parametrize("path", plugin_modules(), ids=module_name)
def test_loading_a_plugin_imports_no_framework_engine_or_server(path: Path) -> None:
    code = (
        f"import sys, {module_name(path)}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert set(output.split()) & {"django", "redis", "uvicorn", "pytest", "hypothesis"} == set()
