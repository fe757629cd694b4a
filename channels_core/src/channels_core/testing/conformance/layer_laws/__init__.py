"""The laws of layer backends, grouped by what they are about; :mod:`..layers` puts them together."""

__all__: list[str] = []
