"""Makes failing kit tests show real assertion diffs.

pytest rewrites the assertions of test modules only; a kit that lives in an installed package has to ask for it, and
before its modules are imported. That is why this is an entry point and why it imports nothing else of the kit.
"""

import pytest

__all__: list[str] = []

pytest.register_assert_rewrite("channels_core.testing.conformance")
