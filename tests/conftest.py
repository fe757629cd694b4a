"""Refuses to run on a checkout that is not installed.

The folders ``channels_core`` and ``channels_django`` at the top would otherwise be imported as empty namespace
packages, and every failure after that would point somewhere else.
"""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = (
    "channels_core",
    "channels_django",
    "channels_layer_memory",
    "channels_origin_allowed_hosts",
    "channels_router_regex",
    "channels_session_django",
)


def missing_packages(names: tuple[str, ...] = PACKAGES) -> list[str]:
    """Those of ``names`` that cannot be imported, or only as folders without code."""
    missing = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name != name:
                raise
            missing.append(name)
        else:
            if module.__file__ is None:
                missing.append(name)
    return missing


def pytest_configure() -> None:
    missing = missing_packages()
    if missing:
        raise pytest.UsageError(
            f"This checkout is not installed: {', '.join(missing)} cannot be imported. Run the tests with"
            " `make test`, or run `make venv` and then .venv/bin/pytest."
        )
