"""Refuses to run on a checkout that is not installed.

The folders ``channels_core`` and ``channels_django`` at the top would otherwise be imported as empty namespace
packages, and every failure after that would point somewhere else.
"""

import importlib.util

import pytest

PACKAGES = (
    "channels",
    "channels_core",
    "channels_delay",
    "channels_django",
    "channels_layer_database",
    "channels_layer_memory",
    "channels_layer_redis",
    "channels_model_binding",
    "channels_origin_allowed_hosts",
    "channels_router_regex",
    "channels_session_django",
)


def missing_packages(names: tuple[str, ...] = PACKAGES) -> list[str]:
    """Those of ``names`` that cannot be found, or only as folders without code. Imports none of them."""
    specs = {name: importlib.util.find_spec(name) for name in names}
    return [name for name, spec in specs.items() if spec is None or spec.origin is None]


def pytest_configure() -> None:
    missing = missing_packages()
    if missing:
        raise pytest.UsageError(
            f"This checkout is not installed: {', '.join(missing)} cannot be imported. Run the tests with"
            " `make test`, or run `make venv` and then .venv/bin/pytest."
        )
