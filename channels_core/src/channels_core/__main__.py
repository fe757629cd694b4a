"""``python -m channels_core`` is the ``channels`` command."""

import sys

from channels_core.cli import main

__all__: list[str] = []

sys.exit(main())
