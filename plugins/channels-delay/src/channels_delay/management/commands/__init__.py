"""Management commands: rundelay."""

__all__: list[str] = []
