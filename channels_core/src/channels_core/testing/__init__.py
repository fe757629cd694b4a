"""The public test kit: conformance suites for plugin authors, and the pytest plugin that serves them."""

__all__: list[str] = []
