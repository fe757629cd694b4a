"""The guard of `tests/conftest.py` against a checkout that was never installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_THE_WORKSPACE = """
import sys
sys.path[:] = [path for path in sys.path if not path.endswith("/src")]
import pytest
sys.exit(pytest.main(["-p", "no:channels_core", "--collect-only", "tests/repo"]))
"""


def test_an_uninstalled_checkout_is_named_as_such() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_WORKSPACE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 4
    assert run.stderr.strip() == (
        "ERROR: This checkout is not installed: channels, channels_core, channels_delay, channels_django,"
        " channels_layer_database, channels_layer_memory, channels_layer_redis, channels_model_binding,"
        " channels_origin_allowed_hosts, channels_router_regex, channels_session_django cannot be"
        " imported."
        " Run the tests with `make test`, or run `make venv` and then .venv/bin/pytest."
    )
