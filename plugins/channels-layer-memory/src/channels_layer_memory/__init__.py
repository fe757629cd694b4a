"""Channel layer that lives in the memory of one process."""

__all__: list[str] = []
